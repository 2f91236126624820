"""Compact postprocessing against the references' dense computation."""

import tracemalloc
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from condinst_deploy.contract import ImageGeometry, ModelManifest, NetworkOutputs
from condinst_deploy.errors import BackendError
from condinst_deploy.model.mask_paste import dense_probabilities
from condinst_deploy.model.resample import aligned_bilinear
from condinst_deploy.runtime import postprocess
from condinst_deploy.runtime.postprocess import (
    STRIP,
    ResultFilter,
    composed_resampling,
    detections_from_outputs,
    masks_from_logits,
)
from tests.support.dense_masks import encoded
from tests.support.mask_cases import BEYOND, SMALL, UNDECIDED, adversarial, blobs, outputs_with
from tests.support.models import SLIM_ADELAIDET, manifest_of


def check_equal(logits: torch.Tensor, geometry: ImageGeometry, strip: int = STRIP) -> int:
    """Compare with the dense masks; returns how many pixels are set."""
    probabilities = dense_probabilities(logits, geometry).numpy()
    masks = masks_from_logits(logits.numpy(), np.arange(len(logits)), geometry, strip)
    dense = np.asarray(masks)
    assert dense.shape == probabilities.shape
    wrong = (dense != (probabilities > 0.5)) & (np.abs(probabilities - 0.5) > UNDECIDED)
    assert not wrong.any()
    assert masks.rle() == encoded(dense)
    assert masks.areas.tolist() == dense.sum(axis=(1, 2)).tolist()
    for crop in masks.crops:  # no wider than what is in them
        assert crop.size == 0 or (crop[[0, -1]].any(axis=1).all() and crop[:, [0, -1]].any(axis=0).all())
    return int(dense.sum())


ORIGINALS = [
    (96, 160),
    (61, 97),
    (480, 640),
    (1200, 1600),
    (20, 33),
    (1, 1),
    (1, 50),
    (50, 1),
    (3, 150),
    (400, 8),
    (2, 2),
]


@pytest.mark.parametrize("original", ORIGINALS)
def test_masks_equal_the_dense_computation_at_any_size_ratio(original: tuple[int, int]) -> None:
    geometry = ImageGeometry.of(original, SMALL)
    height, width = (side // 8 for side in geometry.padded)
    set_pixels = check_equal(blobs(hash(original) % 1000, 12, height, width), geometry)
    assert set_pixels > 0


@pytest.mark.parametrize("original", [(96, 160), (61, 97), (240, 400)])
def test_rectangles_that_begin_and_end_near_the_borders_equal_the_dense_computation(original: tuple[int, int]) -> None:
    geometry = ImageGeometry.of(original, SMALL)
    height, width = (side // 8 for side in geometry.padded)
    starts, stops = range(3), range(-2, 1)
    spans = [(starts_at, stops_at) for starts_at in starts for stops_at in stops]
    logits = torch.full((len(spans) ** 2, height, width), -6.0)
    for i, (top, bottom) in enumerate(spans):
        for j, (left, right) in enumerate(spans):
            logits[i * len(spans) + j, top : height + bottom, left : width + right] = 6.0
    assert check_equal(logits, geometry) > 0


@pytest.mark.parametrize("name", adversarial(4, 4))
@pytest.mark.parametrize("original", [(96, 130), (200, 271), (40, 50), (9, 12), (1, 1)])
def test_masks_equal_the_dense_computation_on_adversarial_logits(name: str, original: tuple[int, int]) -> None:
    geometry = ImageGeometry.of(original, SMALL)
    height, width = (side // 8 for side in geometry.padded)
    logits = adversarial(height, width)[name]
    set_pixels = check_equal(logits[None], geometry)
    if name in ("full", "barely positive everywhere", "hole", "stripes of zero"):
        assert set_pixels > 0
    if name in ("corners", "one cell", "specks", "top border", "checkerboard"):
        assert set_pixels > 0 or max(original) < 40  # between two pixels
    if name in ("empty", "all zero", "positive only in the padding"):
        assert set_pixels == 0


@settings(deadline=None, derandomize=True, max_examples=60)
@given(
    original=st.tuples(st.integers(1, 300), st.integers(1, 300)),
    seed=st.integers(0, 10_000),
    scale=st.sampled_from([0.05, 1.0, 4.0, 30.0]),
    extra=st.tuples(st.integers(0, 3), st.integers(0, 3)),
)
def test_masks_equal_the_dense_computation_on_random_images(
    original: tuple[int, int], seed: int, scale: float, extra: tuple[int, int]
) -> None:
    geometry = ImageGeometry.of(original, SMALL)
    # an image in a batch may be padded further than it needs
    height, width = (side // 8 + 4 * more for side, more in zip(geometry.padded, extra, strict=True))
    check_equal(blobs(seed, 3, height, width, scale), geometry)


@pytest.mark.parametrize("original", [(96, 160), (30, 50), (300, 500)])
def test_strips_of_a_large_mask_join_without_a_seam(original: tuple[int, int]) -> None:
    logits = torch.cat((blobs(11, 4, 12, 20), torch.full((1, 12, 20), 5.0)))
    assert check_equal(logits, ImageGeometry.of(original, SMALL), strip=64) > 0  # one to three columns


def test_specks_far_apart_cost_no_columns_between_them() -> None:
    columns = composed_resampling(336, 1333, 4000)
    positive = np.zeros(168, dtype=np.bool_)
    positive[[3, 160]] = True
    # a logit reaches eight network pixels to both sides
    assert len(postprocess.pixels_beside(positive, columns)) <= 2 * 17 * 3 + 2


def matrix_of(axis: postprocess.Resampling) -> npt.NDArray[np.float32]:
    """`(original, n)`: pixels = matrix @ probabilities."""
    pixels, matrix = np.arange(axis.original), np.zeros((axis.original, axis.n), dtype=np.float32)
    matrix[pixels, axis.first] = 1 - axis.share
    matrix[pixels, np.minimum(axis.first + 1, axis.n - 1)] += axis.share
    return matrix


@settings(deadline=None, derandomize=True, max_examples=60)
@given(n=st.integers(1, 40), cut=st.integers(0, 7), original=st.integers(1, 400), seed=st.integers(0, 1000))
def test_two_resamplings_are_one_between_two_neighbours(n: int, cut: int, original: int, seed: int) -> None:
    resized = max(1, 4 * n - cut)
    values = torch.rand(1, 1, n, 1, generator=torch.Generator().manual_seed(seed))
    upsampled = aligned_bilinear(values, 4)[:, :, :resized, :1]
    expected = F.interpolate(upsampled, size=(original, 1), mode="bilinear", align_corners=False)[0, 0, :, 0]
    axis = composed_resampling(n, resized, original)
    matrix = matrix_of(axis)
    mixed = matrix @ values[0, 0, :, 0].numpy()
    np.testing.assert_allclose(mixed, expected.numpy(), atol=2e-5)
    assert ((matrix != 0).sum(axis=1) <= 2).all()
    assert (np.diff(axis.places) >= 0).all()


def test_half_precision_logits_are_taken_as_they_are() -> None:
    geometry = ImageGeometry.of((150, 200), SMALL)
    height, width = (side // 8 for side in geometry.padded)
    check_equal(blobs(5, 4, height, width).half().float(), geometry)
    half = masks_from_logits(blobs(5, 4, height, width).half().numpy(), np.arange(4), geometry)
    full = masks_from_logits(blobs(5, 4, height, width).half().float().numpy(), np.arange(4), geometry)
    assert half.rle() == full.rle()


def outputs(count: int, slots: int = 5) -> NetworkOutputs:
    logits = blobs(3, slots, 12, 20).numpy()[None]
    scores = np.linspace(0.9, 0.5, slots, dtype=np.float32)[None]
    boxes = np.tile(np.array([16, 8, 80, 60], dtype=np.float32), (1, slots, 1))
    labels = (np.arange(slots, dtype=np.int32) % 3)[None]
    return NetworkOutputs(np.array([count], dtype=np.int32), boxes, scores, labels, logits)


@pytest.fixture
def geometry() -> ImageGeometry:
    return ImageGeometry((48, 80), (96, 160), (96, 160))


@pytest.mark.parametrize("count", [0, 1, 5])
def test_only_valid_slots_become_detections(count: int, geometry: ImageGeometry) -> None:
    (found,) = detections_from_outputs(outputs(count), [geometry], manifest_of(), ResultFilter())
    assert len(found) == count
    assert np.asarray(found.masks).shape == (count, 48, 80)
    if count:
        np.testing.assert_array_equal(found.boxes[0], [8, 4, 40, 30])


def test_the_filter_keeps_what_was_asked_for(geometry: ImageGeometry) -> None:
    manifest: ModelManifest = manifest_of()

    def scores(result_filter: ResultFilter) -> list[float]:
        (found,) = detections_from_outputs(outputs(5), [geometry], manifest, result_filter)
        return [round(float(score), 3) for score in found.scores]

    everything = ResultFilter()
    assert scores(everything) == [0.9, 0.8, 0.7, 0.6, 0.5]
    assert scores(replace(everything, score_threshold=0.65)) == [0.9, 0.8, 0.7]
    assert scores(replace(everything, labels=frozenset({1}))) == [0.8, 0.5]
    assert scores(replace(everything, max_detections=2)) == [0.9, 0.8]
    assert scores(replace(everything, labels=frozenset({1, 2}), max_detections=2)) == [0.8, 0.7]
    assert scores(replace(everything, labels=frozenset())) == []


def test_memory_follows_the_masks_and_not_the_image() -> None:
    geometry = ImageGeometry.of((3000, 4000), SMALL)
    height, width = (side // 8 for side in geometry.padded)
    logits = torch.full((50, height, width), -5.0)
    logits[:, 3, 4] = 5.0
    masks_from_logits(logits.numpy()[:1], np.arange(1), geometry)  # fills the cache of matrices
    tracemalloc.start()
    masks = masks_from_logits(logits.numpy(), np.arange(50), geometry)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert masks.areas.min() > 0
    # one dense mask would be 12 MB
    assert peak < 2e6


def test_many_large_masks_on_a_large_image_stay_far_below_their_pixels() -> None:
    geometry = ImageGeometry.of((3000, 4000), SMALL)
    height, width = (side // 8 for side in geometry.padded)
    logits = np.repeat(blobs(7, 10, height, width, scale=2.0).numpy(), 30, axis=0)
    tracemalloc.start()
    rles = masks_from_logits(logits, np.arange(300), geometry).rle()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(rles) == 300
    # the target is 200 MB; in bytes the masks would be 3.6 GB
    assert peak < 100e6


def test_outputs_that_are_not_finite_are_an_error_and_not_an_empty_result(geometry: ImageGeometry) -> None:
    broken = outputs(0)
    broken.mask_logits[0, 0, 0, 0] = np.nan
    with pytest.raises(BackendError, match="NaN or infinity"):
        detections_from_outputs(broken, [geometry], manifest_of(), ResultFilter())


@pytest.mark.parametrize(("field", "slot"), [("scores", -1), ("scores", 0), ("boxes", 0)])
def test_a_box_or_a_score_that_is_not_finite_is_an_error(field: str, slot: int, geometry: ImageGeometry) -> None:
    """The last slot's score is how a network says that a level's detections are missing."""
    broken = outputs(3)
    getattr(broken, field)[0, slot] = np.nan
    with pytest.raises(BackendError, match="NaN or infinity"):
        detections_from_outputs(broken, [geometry], manifest_of(), ResultFilter())


@pytest.mark.parametrize(
    ("precision", "reason"),
    [("float32", "in float32 on this image; check the checkpoint"), ("float16", "in float16 .* range check")],
)
def test_the_error_names_the_precision_and_what_to_do(precision: str, reason: str, geometry: ImageGeometry) -> None:
    broken = outputs(1)
    broken.mask_logits[0, 0, 0, 0] = np.inf
    manifest = replace(manifest_of(), precision=precision)
    with pytest.raises(BackendError, match=reason):
        detections_from_outputs(broken, [geometry], manifest, ResultFilter())


def test_what_is_not_finite_in_a_blank_image_of_the_batch_does_not_matter(geometry: ImageGeometry) -> None:
    one = outputs(3)
    two = NetworkOutputs(*(np.concatenate([array, array]) for array in one))
    two.mask_logits[1] = np.nan
    (expected,) = detections_from_outputs(one, [geometry], manifest_of(), ResultFilter())
    (found,) = detections_from_outputs(two, [geometry], manifest_of(), ResultFilter())
    assert len(found) == 3
    assert found.masks.rle() == expected.masks.rle()
    with pytest.raises(BackendError, match="NaN or infinity"):
        detections_from_outputs(two, [geometry, geometry], manifest_of(), ResultFilter())


@pytest.mark.parametrize("limit", [None, 2])
def test_adelaidets_boxes_are_clipped_and_empty_ones_go_with_their_masks(limit: int | None) -> None:
    geometry = ImageGeometry((128, 192), (64, 96), (64, 96))
    outputs, chosen = outputs_with(BEYOND), ResultFilter(max_detections=limit)
    (found,) = detections_from_outputs(outputs, [geometry], manifest_of(SLIM_ADELAIDET), chosen)
    left = [0, 3, 5][:limit]  # the limit counts what is left
    expected = [[0, 20, 80, 100], [120, 0, 192, 128], [0, 0, 192, 128]][:limit]
    assert found.boxes.tolist() == expected
    assert found.scores.tolist() == outputs.scores[0, left].tolist()
    assert found.labels.tolist() == outputs.labels[0, left].tolist()
    masks = masks_from_logits(outputs.mask_logits[0], np.array(left), geometry)
    assert np.array_equal(np.asarray(found.masks), np.asarray(masks))


def test_mmdetections_boxes_stay_as_the_network_gives_them() -> None:
    geometry = ImageGeometry((64, 96), (64, 96), (64, 96))
    (found,) = detections_from_outputs(outputs_with(BEYOND), [geometry], manifest_of(), ResultFilter())
    assert found.boxes.tolist() == BEYOND


def test_an_image_whose_boxes_are_all_beyond_it_has_no_detections() -> None:
    geometry = ImageGeometry((64, 96), (64, 96), (64, 96))
    outputs = outputs_with([[-9.0, 0.0, -1.0, 9.0], [0.0, 64.0, 9.0, 70.0]])
    (found,) = detections_from_outputs(outputs, [geometry], manifest_of(SLIM_ADELAIDET), ResultFilter())
    assert len(found) == 0
    assert np.asarray(found.masks).shape == (0, 64, 96)
