"""Compact masks against pycocotools, dense arrays and a point-in-polygon rule of our own."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from pycocotools import mask as coco_mask

from condinst_deploy.errors import ConfigError
from condinst_deploy.masks import Masks, Selector, trimmed_crop
from tests.support.mask_shapes import (
    DENSE,
    NAMES,
    Bool,
    coco_rle,
    dense_masks,
    empty,
    inside_even_odd,
    random_masks,
    untrimmed,
)


@pytest.mark.parametrize("name", NAMES)
def test_rle_has_the_bytes_of_pycocotools(name: str) -> None:
    assert Masks.from_dense(DENSE[name][None]).rle() == [coco_rle(DENSE[name])]


@given(dense_masks())
@settings(deadline=None, derandomize=True, max_examples=300)
def test_rle_of_any_mask_has_the_bytes_of_pycocotools(dense: Bool) -> None:
    assert Masks.from_dense(dense[None]).rle() == [coco_rle(dense)]


@given(untrimmed())
@settings(deadline=None, derandomize=True, max_examples=300)
def test_empty_borders_of_a_crop_change_nothing(case: tuple[Bool, Masks]) -> None:
    dense, masks = case
    assert masks.rle() == [coco_rle(dense)]
    assert np.array_equal(np.asarray(masks), dense[None])
    assert masks.areas.tolist() == [dense.sum()]
    assert np.array_equal(inside_even_odd(masks.polygons()[0], *dense.shape), dense)


@pytest.mark.parametrize("shape", [(0, 0), (0, 4), (3, 0), (3, 4)])
def test_crop_without_pixels_is_an_empty_mask(shape: tuple[int, int]) -> None:
    masks = Masks.from_crops((7, 5), np.array([[2, 1]]), [empty(*shape)])
    assert masks.rle() == [coco_rle(empty(7, 5))]
    assert masks.polygons() == [[]]
    assert masks.areas.tolist() == [0]
    assert not np.asarray(masks).any()


@pytest.mark.parametrize("size", [(0, 5), (5, 0), (0, 0)])
def test_image_without_pixels_has_the_rle_of_pycocotools(size: tuple[int, int]) -> None:
    assert Masks.from_dense(empty(*size)[None]).rle() == [coco_rle(empty(*size))]


@pytest.mark.parametrize("name", DENSE)
def test_masks_come_back_from_their_rle(name: str) -> None:
    masks = Masks.from_dense(np.stack([DENSE[name], ~DENSE[name]]))
    size = (DENSE[name].shape[0], DENSE[name].shape[1])
    decoded = Masks.from_rle(masks.rle(), size)
    np.testing.assert_array_equal(np.asarray(decoded), np.asarray(masks))
    assert decoded.offsets.tolist() == masks.offsets.tolist()
    assert len(Masks.from_rle([], size)) == 0


def test_rles_of_several_masks_decode_to_the_dense_masks() -> None:
    dense = random_masks()
    decoded = coco_mask.decode(Masks.from_dense(dense).rle())
    assert np.array_equal(decoded.transpose(2, 0, 1), dense)


@pytest.mark.parametrize("name", NAMES)
def test_dense_masks_survive_the_round_trip(name: str) -> None:
    dense = DENSE[name][None]
    masks = Masks.from_dense(dense)
    assert np.array_equal(np.asarray(masks), dense)
    assert np.asarray(masks).dtype == np.bool_
    assert masks.size == DENSE[name].shape


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float32])
def test_dense_masks_of_numbers_belong_to_the_instance_where_not_zero(dtype: type[Any]) -> None:
    dense = random_masks()
    assert np.array_equal(np.asarray(Masks.from_dense(dense * dtype(3))), dense)


@pytest.mark.parametrize("name", NAMES)
def test_areas_are_those_of_pycocotools(name: str) -> None:
    areas = Masks.from_dense(DENSE[name][None]).areas
    assert areas.tolist() == [coco_mask.area(coco_rle(DENSE[name]))]
    assert areas.dtype == np.int64


@pytest.mark.parametrize("name", [name for name in NAMES if DENSE[name].size < 10_000])
def test_polygons_hold_exactly_the_centres_of_the_masks_pixels(name: str) -> None:
    (polygons,) = Masks.from_dense(DENSE[name][None]).polygons()
    assert np.array_equal(inside_even_odd(polygons, *DENSE[name].shape), DENSE[name])


@given(dense_masks())
@settings(deadline=None, derandomize=True, max_examples=200)
def test_polygons_are_closed_and_stay_in_the_image(dense: Bool) -> None:
    (polygons,) = Masks.from_dense(dense[None]).polygons()
    assert np.array_equal(inside_even_odd(polygons, *dense.shape), dense)
    for polygon in polygons:
        assert polygon.dtype == np.float32
        assert polygon.ndim == 2
        assert np.array_equal(polygon[0], polygon[-1])
        assert (polygon >= 0).all()
        assert (polygon <= dense.shape[::-1]).all()


@pytest.mark.parametrize(
    ("name", "count"),
    [("empty", 0), ("full", 1), ("disc", 1), ("all borders", 2), ("ring with an island", 3), ("specks", 6)],
)
def test_every_part_and_every_hole_is_a_polygon(name: str, count: int) -> None:
    (polygons,) = Masks.from_dense(DENSE[name][None]).polygons()
    assert len(polygons) == count


def test_polygons_come_mask_by_mask() -> None:
    dense = random_masks()
    polygons = Masks.from_dense(dense).polygons()
    assert len(polygons) == len(dense)
    for mask, outlines in zip(dense, polygons, strict=True):
        assert np.array_equal(inside_even_odd(outlines, *mask.shape), mask)


def test_no_masks_at_all() -> None:
    masks = Masks.from_dense(np.zeros((0, 6, 4), dtype=np.bool_))
    assert len(masks) == 0
    assert masks.rle() == []
    assert masks.polygons() == []
    assert masks.areas.shape == (0,)
    assert np.asarray(masks).shape == (0, 6, 4)


@pytest.mark.parametrize(
    "which",
    [
        0,
        5,
        -1,
        -6,
        np.int64(3),
        slice(None),
        slice(1, 4),
        slice(None, None, -2),
        slice(3, 3),
        [],
        [4],
        [3, 0, 3, -1],
        np.array([5, 2]),
        np.array([], dtype=np.int64),
        np.array([True, False, True, True, False, False]),
        np.zeros(6, dtype=np.bool_),
    ],
    ids=str,
)
def test_indexing_picks_what_numpy_picks(which: Selector) -> None:
    dense = random_masks()
    picked = Masks.from_dense(dense)[which]
    expected = dense[which]
    expected = expected[None] if expected.ndim == 2 else expected
    assert isinstance(picked, Masks)
    assert len(picked) == len(expected)
    assert np.array_equal(np.asarray(picked), expected)


@pytest.mark.parametrize("which", [6, -7, [0, 6], np.array([True, False])], ids=str)
def test_index_that_is_not_there_is_an_index_error(which: Selector) -> None:
    with pytest.raises(IndexError):
        Masks.from_dense(random_masks())[which]


def test_iteration_gives_one_mask_at_a_time() -> None:
    dense = random_masks()
    assert np.array_equal(np.concatenate([np.asarray(mask) for mask in iter(Masks.from_dense(dense))]), dense)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_dense_masks_take_the_type_that_is_asked_for(dtype: type[Any]) -> None:
    dense = random_masks()
    converted = np.asarray(Masks.from_dense(dense), dtype=dtype)
    assert converted.dtype == dtype
    assert np.array_equal(converted, dense.astype(dtype))


@pytest.mark.parametrize("convert", [np.asarray, np.array])
def test_every_conversion_is_a_new_array(convert: Callable[[Masks], npt.NDArray[Any]]) -> None:
    masks = Masks.from_dense(random_masks())
    convert(masks)[...] = True
    assert np.array_equal(convert(masks), random_masks())


def test_dense_masks_without_a_copy_are_refused() -> None:
    with pytest.raises(ValueError, match="copy cannot be avoided"):
        np.array(Masks.from_dense(random_masks()), copy=False)


def test_memory_follows_the_extent_of_the_masks() -> None:
    dense = np.zeros((3, 1000, 900), dtype=np.bool_)
    dense[0, 500:502, 300:303] = True
    dense[1, (10, 19), (20, 24)] = True
    masks = Masks.from_dense(dense)
    assert [crop.nbytes for crop in masks.crops] == [2 * 3, 10 * 5, 0]
    assert [runs.nbytes for runs in masks.runs] == [3 * 2 * 8, 2 * 2 * 8, 0]
    # a view would keep the whole dense mask alive
    assert all(runs.base is None for runs in masks.runs)


def test_runs_become_rle_and_areas_without_a_pixel(monkeypatch: pytest.MonkeyPatch) -> None:
    dense = random_masks()
    masks = Masks.from_dense(dense)

    def none(*_: Any, **__: Any) -> None:
        raise AssertionError("pixels were made")

    monkeypatch.setattr("condinst_deploy.masks.masks.crop_of_runs", none)
    with pytest.raises(AssertionError, match="pixels were made"):
        np.asarray(masks)
    assert masks.rle() == [coco_rle(mask) for mask in dense]
    assert masks.areas.tolist() == dense.sum(axis=(1, 2)).tolist()
    assert len(Masks.from_rle(masks.rle(), masks.size)) == len(masks)


@given(dense_masks())
@settings(deadline=None, derandomize=True, max_examples=100)
def test_crops_hold_the_mask_and_no_empty_border(dense: Bool) -> None:
    masks = Masks.from_dense(dense[None])
    (y, x), crop = trimmed_crop(dense)
    assert np.array_equal(masks.crop(0), crop)
    assert masks.offsets.tolist() == [[y, x]]
    assert masks.windows == [(y, x, *crop.shape)]
    assert np.array_equal(np.asarray(Masks.from_crops(masks.size, masks.offsets, masks.crops))[0], dense)


@pytest.mark.parametrize(
    ("runs", "message"),
    [
        (np.array([0, 3], dtype=np.int32), r"runs are int32 \(2,\); expected int64 \(2m,\)"),
        (np.array([0, 3, 4]), r"int64 \(3,\)"),
        (np.array([[0, 3]]), r"int64 \(1, 2\)"),
        (np.array([-1, 3]), r"do not rise from 0 to the 7 \* 5 pixels"),
        (np.array([0, 36]), "do not rise"),
        (np.array([3, 3]), "do not rise"),
        (np.array([0, 3, 2, 5]), "do not rise"),
    ],
)
def test_runs_that_are_none_are_refused(runs: npt.NDArray[np.int64], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Masks((7, 5), (runs,))


@pytest.mark.parametrize(
    "rle",
    [
        {"size": [5, 7], "counts": b"03"},
        {"size": [7, 5], "counts": b"03"},  # three pixels
        {"size": [7, 5], "counts": b""},
        {"size": [7, 5], "counts": b"Z"},  # more is to follow
        {"size": [7, 5], "counts": b"Oa1"},  # a run of -1 pixels
    ],
    ids=lambda rle: str(rle),
)
def test_an_rle_that_is_none_of_this_image_is_refused(rle: Any) -> None:
    with pytest.raises(ConfigError, match=r"does not describe 7 \* 5 pixels"):
        Masks.from_rle([rle], (7, 5))


@pytest.mark.parametrize("name", NAMES)
def test_text_counts_as_in_json_are_read_like_bytes(name: str) -> None:
    masks = Masks.from_dense(DENSE[name][None])
    rle = coco_rle(DENSE[name])
    text = json.loads(json.dumps([rle | {"counts": rle["counts"].decode()}]))
    np.testing.assert_array_equal(Masks.from_rle(text, masks.size).runs[0], masks.runs[0])


@pytest.mark.parametrize("counts", [[0, 35], "\u00e9", None, 35, np.array([0, 35])], ids=repr)
def test_counts_that_are_no_compressed_text_are_refused(counts: Any) -> None:
    with pytest.raises(ConfigError, match="expected bytes or ASCII text"):
        Masks.from_rle([{"size": [7, 5], "counts": counts}], (7, 5))


def test_an_rle_with_runs_of_no_pixels_is_read() -> None:
    counts = coco_mask.frPyObjects({"size": [7, 5], "counts": [0, 4, 0, 3, 5, 0, 23]}, 7, 5)
    assert Masks.from_rle([counts], (7, 5)).runs[0].tolist() == [0, 7]


@pytest.mark.parametrize(
    ("offsets", "crops", "message"),
    [
        (np.zeros((2, 2), np.int64), (empty(1, 1),), r"offsets have shape \(2, 2\); expected \(1, 2\)"),
        (np.zeros(2, np.int64), (empty(1, 1),), r"offsets have shape \(2,\); expected \(1, 2\)"),
        (np.zeros((0, 2), np.int64), (empty(1, 1),), r"offsets have shape \(0, 2\); expected \(1, 2\)"),
        (np.zeros((1, 2), np.int64), (np.zeros((1, 1), np.uint8),), r"uint8 \(1, 1\); expected bool \(h, w\)"),
        (np.zeros((1, 2), np.int64), (np.zeros(3, np.bool_),), r"bool \(3,\); expected bool \(h, w\)"),
        (np.array([[-1, 0]]), (empty(2, 2),), r"\(2, 2\) at \(-1, 0\) leaves the image \(7, 5\)"),
        (np.array([[0, -1]]), (empty(2, 2),), r"at \(0, -1\) leaves"),
        (np.array([[6, 0]]), (empty(2, 2),), r"at \(6, 0\) leaves"),
        (np.array([[0, 4]]), (empty(2, 2),), r"at \(0, 4\) leaves"),
    ],
)
def test_fields_that_do_not_go_together_are_refused(
    offsets: npt.NDArray[np.int64], crops: tuple[Bool, ...], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        Masks.from_crops((7, 5), offsets, crops)


def test_crop_may_reach_exactly_to_the_images_corner() -> None:
    masks = Masks.from_crops((7, 5), np.array([[5, 3]]), [~empty(2, 2)])
    assert np.argwhere(np.asarray(masks)[0]).tolist() == [[5, 3], [5, 4], [6, 3], [6, 4]]


@pytest.mark.parametrize("shape", [(7, 5), (1, 2, 7, 5)])
def test_dense_masks_of_another_rank_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match=r"expected \(n, H, W\)"):
        Masks.from_dense(np.zeros(shape, dtype=np.bool_))
