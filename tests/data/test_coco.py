"""COCO data sets: against pycocotools, mmdetection's rules of what is trained on, and every error by name."""

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from condinst_deploy.data.annotation_checks import LeftOut, checked_segmentation
from condinst_deploy.data.coco import CocoDataset, Sample, masks_at
from condinst_deploy.errors import DataError
from condinst_deploy.shown_text import shown

HEIGHT, WIDTH = 48, 64
TWO_PARTS = [[4.5, 3.0, 30.25, 6.0, 20.0, 28.5], [40.0, 10.0, 60.0, 10.0, 60.0, 40.7, 40.0, 40.0]]
FULL = [0, HEIGHT * WIDTH]


def random_mask(seed: int = 0) -> np.ndarray[Any, Any]:
    rng = np.random.default_rng(seed)
    return np.asfortranarray(rng.random((HEIGHT, WIDTH)) < 0.5).astype(np.uint8, order="F")


def compressed(mask: np.ndarray[Any, Any]) -> dict[str, Any]:
    rle = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": rle["size"], "counts": rle["counts"].decode()}


def uncompressed(mask: np.ndarray[Any, Any]) -> dict[str, Any]:
    flat = mask.T.ravel()
    changes = np.flatnonzero(np.diff(flat, prepend=0)).tolist()
    return {"size": list(mask.shape), "counts": np.diff([0, *changes, flat.size]).tolist()}


def annotation(number: float = 1, **changes: Any) -> dict[str, Any]:
    whole: dict[str, Any] = {"id": number, "image_id": 7, "category_id": 3, "iscrowd": 0, "area": 100.0}
    whole |= {"bbox": [4.5, 3.0, 40.0, 30.0], "segmentation": TWO_PARTS}
    return {key: value for key, value in (whole | changes).items() if value is not ...}


def image(number: float = 7, width: float = WIDTH, height: float = HEIGHT) -> dict[str, Any]:
    return {"id": number, "file_name": f"{number}.png", "width": width, "height": height}


def content(annotations: list[dict[str, Any]], images: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    categories = [{"id": 9, "name": "late"}, {"id": 3, "name": "early"}]
    return {"images": [image()] if images is None else images, "annotations": annotations} | {"categories": categories}


def written(folder: Path, values: dict[str, Any]) -> Path:
    for entry in values["images"]:
        Image.new("RGB", (entry["width"], entry["height"]), "red").save(folder / entry["file_name"])
    path = folder / "set.json"
    path.write_text(json.dumps(values))
    return path


def opened(folder: Path, *annotations: dict[str, Any], training: bool = True) -> CocoDataset:
    return CocoDataset(written(folder, content(list(annotations))), folder, training)


def sample_of(segmentation: Any, folder: Path) -> Sample:
    return opened(folder, annotation(segmentation=segmentation))[0]


def test_a_sample_has_the_image_the_boxes_and_labels_by_category_id(tmp_path: Path) -> None:
    data = opened(tmp_path, annotation(1, category_id=9), annotation(2, bbox=[0, 1, 2, 3]))
    assert (data.class_names, data.category_ids, data.image_ids) == (("early", "late"), (3, 9), (7,))
    assert list(data.paths) == [tmp_path / "7.png"]
    sample = data[0]
    assert sample.image_id == 7
    assert sample.image.shape == (HEIGHT, WIDTH, 3)
    assert sample.image.dtype == np.uint8
    assert sample.image[0, 0].tolist() == [255, 0, 0]
    assert sample.boxes.tolist() == [[4.5, 3, 44.5, 33], [0, 1, 2, 4]]
    assert sample.boxes.dtype == np.float32
    assert sample.labels.tolist() == [1, 0]
    assert sample.labels.dtype == np.int64


@pytest.mark.parametrize(
    "segmentation",
    [TWO_PARTS, compressed(random_mask()), uncompressed(random_mask()), uncompressed(np.ones_like(random_mask()))],
    ids=["polygons", "compressed", "uncompressed", "all ones"],
)
def test_masks_of_the_original_size_are_pycocotools(segmentation: Any, tmp_path: Path) -> None:
    sample = sample_of(segmentation, tmp_path)
    with contextlib.redirect_stdout(io.StringIO()):
        ground_truth = COCO(str(tmp_path / "set.json"))
    want = ground_truth.annToMask(ground_truth.loadAnns([1])[0])
    assert want.any()
    np.testing.assert_array_equal(masks_at(sample, (HEIGHT, WIDTH))[0], want.astype(bool))


def test_polygons_are_scaled_before_they_are_rasterised(tmp_path: Path) -> None:
    sample = sample_of(TWO_PARTS, tmp_path)
    size = (HEIGHT * 3, WIDTH * 2)
    scaled = [[v * (2, 3)[i % 2] for i, v in enumerate(part)] for part in TWO_PARTS]
    want = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(scaled, *size)))
    masks = masks_at(sample, size)
    np.testing.assert_array_equal(masks[0], want.astype(bool))
    enlarged = np.kron(masks_at(sample, (HEIGHT, WIDTH))[0], np.ones((3, 2), dtype=bool))
    assert (masks[0] != enlarged).any(), "rasterised first and enlarged after"
    assert masks[0].sum() == pytest.approx(enlarged.sum(), rel=0.05)


@pytest.mark.parametrize("size", [(48, 64), (30, 41), (97, 131), (1, 1)])
def test_bitmaps_are_sampled_at_the_floor(size: tuple[int, int], tmp_path: Path) -> None:
    mask = random_mask()
    got = masks_at(sample_of(compressed(mask), tmp_path), size)[0]
    want = [[mask[y * HEIGHT // size[0], x * WIDTH // size[1]] for x in range(size[1])] for y in range(size[0])]
    np.testing.assert_array_equal(got, np.array(want, dtype=bool))


@pytest.mark.parametrize("share", [0.0, 0.001, 0.02, 0.5, 1.0])
def test_sound_rles_of_all_kinds_are_accepted(share: float, tmp_path: Path) -> None:
    # long and short runs take one to three characters of the compressed form
    rng = np.random.default_rng(3)
    for _ in range(20):
        mask = (rng.random((HEIGHT, WIDTH)) < share).astype(np.uint8)
        for segmentation in (compressed(mask), uncompressed(mask)):
            sample = sample_of(segmentation, tmp_path)
            np.testing.assert_array_equal(masks_at(sample, (HEIGHT, WIDTH))[0], mask.astype(bool))


@pytest.mark.parametrize(
    "changes",
    [
        {"iscrowd": 1, "segmentation": uncompressed(random_mask())},
        {"ignore": True},
        {"area": 0},
        {"bbox": [5, 5, 0.9, 10]},
        {"bbox": [5, 5, 10, 0.0]},
        {"bbox": [5, 5, -10, 10]},
        {"bbox": [WIDTH, 5, 10, 10]},
        {"bbox": [5, -20, 10, 20]},
    ],
    ids=lambda changes: ", ".join(changes),
)
def test_what_mmdetection_does_not_train_on_is_left_out(changes: dict[str, Any], tmp_path: Path) -> None:
    sample = opened(tmp_path, annotation(1), annotation(2, **changes))[0]
    assert len(sample.boxes) == len(sample.labels) == len(sample.segmentations) == 1


def test_polygons_without_area_are_dropped_and_counted(tmp_path: Path) -> None:
    """As mmdetection: parts of fewer than six numbers go; an object of nothing else is not trained on."""
    lines: list[list[float]] = [[1, 1, 9, 9], [], [3, 4]]
    data = opened(tmp_path, annotation(1, segmentation=[*TWO_PARTS, *lines]), annotation(2, segmentation=lines))
    assert (data.dropped_parts, data.left_out) == (3, [LeftOut(2, "polygons without area")])
    (segmentation,) = data[0].segmentations
    assert isinstance(segmentation, tuple)
    assert [part.tolist() for part in segmentation] == TWO_PARTS
    # where masks are evaluated, such an object has no meaning
    with pytest.raises(DataError, match="here has polygons of fewer than six numbers alone"):
        checked_segmentation(lines, (HEIGHT, WIDTH), "here")


def test_whole_numbers_may_be_written_with_a_point(tmp_path: Path) -> None:
    values = content([annotation(1.0, image_id=7.0, category_id=3.0)], [image(7.0, float(WIDTH), float(HEIGHT))])
    written(tmp_path, content([annotation(1)]))  # the image file
    values["images"][0]["file_name"] = "7.png"
    path = tmp_path / "set.json"
    path.write_text(json.dumps(values))
    data = CocoDataset(path, tmp_path, training=True)
    (record,) = data.records
    assert [type(n) for n in (*record.size, record.image_id, record.instances[0].annotation_id)] == [int] * 4
    assert (record.size, record.image_id) == ((HEIGHT, WIDTH), 7)
    assert data[0].labels.tolist() == [0]


def test_one_id_in_two_spellings_is_not_unique(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="annotation ids are not unique: 1"):
        opened(tmp_path, annotation(1), annotation(1.0))


def test_training_leaves_out_empty_and_small_images(tmp_path: Path) -> None:
    images = [image(7), image(8), image(9, width=31), image(10, width=32)]
    annotations = [annotation(n, image_id=n, segmentation=[[1, 1, 9, 1, 9, 9]]) for n in (7, 9, 10)]
    path = written(tmp_path, content(annotations, images))
    assert CocoDataset(path, tmp_path, training=True).image_ids == (7, 10)
    assert CocoDataset(path, tmp_path, training=True, keep_empty=True).image_ids == (7, 8, 10)
    assert CocoDataset(path, tmp_path, training=True, min_size=0).image_ids == (7, 9, 10)
    everything = CocoDataset(path, tmp_path, training=False)
    assert everything.image_ids == (7, 8, 9, 10)
    empty = everything[1]
    assert empty.boxes.shape == (0, 4)
    assert masks_at(empty, (5, 6)).shape == (0, 5, 6)


def test_an_image_with_only_a_crowd_is_empty(tmp_path: Path) -> None:
    crowd = annotation(1, iscrowd=1, segmentation=uncompressed(random_mask()))
    with pytest.raises(DataError, match="no images to train on"):
        opened(tmp_path, crowd)
    assert len(opened(tmp_path, crowd, training=False)[0].boxes) == 0


def test_a_set_with_nothing_to_train_on_says_what_it_has(tmp_path: Path) -> None:
    has = r"set\.json has no images to train on: it has 2 images and"
    nothing = written(tmp_path, content([], [image(7), image(8)]))
    with pytest.raises(
        DataError, match=rf"{has} 0 annotations; expected objects to learn, with bbox and segmentation$"
    ):
        CocoDataset(nothing, tmp_path, training=True)
    crowd = annotation(1, iscrowd=1, segmentation=uncompressed(random_mask()))
    crowded = written(tmp_path, content([crowd], [image(7), image(8)]))
    with pytest.raises(
        DataError, match=rf"{has} 1 annotation; annotations left out: 1 crowd \(annotation 1, \.\.\.\)$"
    ):
        CocoDataset(crowded, tmp_path, training=True)
    small = written(tmp_path, content([annotation(1)], [image(7), image(8)]))
    with pytest.raises(DataError, match=rf"{has} 1 annotation; 2 images left out: a side is below 500 pixels$"):
        CocoDataset(small, tmp_path, training=True, min_size=500)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("train/7.png", r"; it has 7\.png: write file_name without what stands before it"),
        ("C:\\data\\7.png", r"; it has 7\.png: write file_name without"),
        ("/home/else/7.png", r"; it has 7\.png: write file_name without"),
        ("7.PNG", r"; it has 7\.png, the same name with other upper and lower case"),
        (
            "a/B\u00fcro.png",
            r"; it has Bu\u0308ro\.png, the same name whose accents are encoded in another Unicode form",
        ),
        ("8.png", "relative to the folder of the images"),
    ],
)
def test_a_missing_image_that_is_there_under_another_spelling_is_named(name: str, hint: str, tmp_path: Path) -> None:
    path = tmp_path / "set.json"
    path.write_text(json.dumps(content([annotation()], [image() | {"file_name": name}])))
    (tmp_path / "images").mkdir()
    for own in ("7.png", "Bu\u0308ro.png"):
        Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "images" / own)
    with pytest.raises(DataError, match=hint) as raised:
        CocoDataset(path, tmp_path / "images", training=True)
    assert ("it has" in str(raised.value)) == (name != "8.png")


def test_an_empty_validation_set_says_what_is_empty(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no images to look at: its list 'images' is empty"):
        CocoDataset(written(tmp_path, content([], [])), tmp_path, training=False)


def test_the_camera_s_orientation_is_applied(tmp_path: Path) -> None:
    path = written(tmp_path, content([annotation()]))
    orientation = Image.Exif()
    orientation[0x0112] = 6  # turned by 90 degrees
    Image.new("RGB", (HEIGHT, WIDTH)).save(tmp_path / "7.png", exif=orientation)
    assert CocoDataset(path, tmp_path, training=True)[0].image.shape == (HEIGHT, WIDTH, 3)


BROKEN_RLE = compressed(random_mask())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"segmentation": ...}, "has no segmentation; expected polygons"),
        ({"segmentation": []}, r"segmentation \[\]"),
        ({"segmentation": TWO_PARTS[0]}, "4.5 where a polygon"),
        ({"segmentation": [[1, 1, 9]]}, "polygon of 3 numbers"),
        ({"segmentation": [TWO_PARTS[0], [1, 1, 9, 9, 3]]}, "polygon of 5 numbers"),
        ({"segmentation": [TWO_PARTS[0], [1, 1, 9, 1, 9, 9, 3]]}, "polygon of 7 numbers"),
        ({"segmentation": [[1, 1, 9, 1, 9, "x"]]}, "not a list of numbers"),
        ({"segmentation": [[1, 1, 9, 1, 9, [2]]]}, "not a list of numbers"),
        ({"segmentation": [[1, 1, 9, 1, 9, None]]}, "not a list of numbers"),
        ({"segmentation": [["1", "1", "9", "1", "9", "9"]]}, r"not a list of numbers: \['1', .*expected numbers alone"),
        ({"segmentation": [[[1, 1], [9, 1], [9, 9], [1, 9]]]}, r"\[x0, y0, x1, y1, \.\.\.\], instead of pairs"),
        ({"segmentation": [[[2 * i, i * i] for i in range(6)]]}, r"\[x0, y0, x1, y1, \.\.\.\], instead of pairs"),
        ({"segmentation": [[1, 1, 9, 1, 9, float("nan")]]}, "not finite"),
        ({"segmentation": [[1, 1, 9, 1, 9, 1e9]]}, "far outside"),
        ({"segmentation": [[1, 1, 9, 1, 9, 10**400]]}, "not a list of numbers"),
        ({"segmentation": {**BROKEN_RLE, "size": [WIDTH, HEIGHT]}}, r"size \[64, 48\]; its image is \[48, 64\]"),
        ({"segmentation": {"counts": FULL}}, "RLE of size None"),
        ({"segmentation": {"size": [HEIGHT, WIDTH]}}, "damaged RLE"),
        ({"segmentation": {"size": [HEIGHT, WIDTH], "counts": [0, 5]}}, "damaged RLE"),
        ({"segmentation": {"size": [HEIGHT, WIDTH], "counts": [-1, HEIGHT * WIDTH + 1]}}, "damaged RLE"),
        ({"segmentation": {"size": [HEIGHT, WIDTH], "counts": ["0", 3072]}}, "damaged RLE"),
        ({"segmentation": {**BROKEN_RLE, "counts": BROKEN_RLE["counts"][:-5]}}, "damaged RLE"),
        ({"segmentation": {**BROKEN_RLE, "counts": BROKEN_RLE["counts"] + "o"}}, "damaged RLE"),
        ({"segmentation": {**BROKEN_RLE, "counts": "ooooooooooooooooooo1"}}, "damaged RLE"),
        ({"segmentation": {**BROKEN_RLE, "counts": "é~ !"}}, "damaged RLE"),
        ({"segmentation": {**BROKEN_RLE, "counts": ""}}, "damaged RLE"),
        ({"segmentation": "polygon"}, "segmentation 'polygon'"),
        ({"image_id": 8}, "image_id 8, which no image has"),
        ({"image_id": ...}, "has no 'image_id'; expected a whole"),
        ({"category_id": 4}, "category_id 4, which no category has; expected the id of a category: [0-9]"),
        ({"category_id": "3"}, "'category_id' '3'"),
        ({"category_id": 3.5}, "'category_id' 3.5"),
        ({"image_id": True}, "'image_id' True"),
        ({"image_id": 2.0**60}, "'image_id' 1.15"),
        ({"image_id": float("nan")}, "'image_id' nan"),
        ({"bbox": ...}, "has no bbox; expected four"),
        ({"bbox": [1, 2, 3]}, r"bbox \[1, 2, 3\]"),
        ({"bbox": [1, 2, 3, float("nan")]}, "four finite numbers"),
        ({"bbox": [1, 2, 3, float("inf")]}, "four finite numbers"),
        ({"bbox": [1, 2, 3, "4"]}, "four finite numbers"),
        ({"area": "much"}, "area 'much'"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_malformed_annotation_is_named(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message) as caught:
        opened(tmp_path, annotation(1), annotation(4711, **changes))
    assert "annotation 4711" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300 + len(str(tmp_path))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([], "no list 'images'"),
        ({"images": []}, "no list 'annotations'"),
        ({"images": [], "annotations": []}, "no list 'categories'"),
        (content([], images=[]), "has no images"),
        ({**content([]), "images": [7]}, r"has images\[0\] 7; expected an object"),
        ({**content([]), "images": [{"id": "seven"}]}, "image number 1 has 'id' 'seven'; expected a whole number"),
        ({**content([]), "images": [{**image(), "width": 0}]}, "image 7 has height 48 and width 0"),
        ({**content([]), "images": [{"id": 7, "height": 1, "width": 1}]}, "image 7 has no 'file_name'"),
        ({**content([]), "images": [{**image(), "file_name": ""}]}, "image 7 has 'file_name' ''; expected the name"),
        ({**content([]), "images": [image(), image()]}, "image ids are not unique: 7"),
        ({**content([]), "categories": [{"id": 3}]}, "category 3 has no 'name'; expected text"),
        (content([annotation(5), annotation(5)]), "annotation ids are not unique: 5"),
        (content([annotation(id=...)]), "annotation number 1 has no 'id'"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_file_that_is_not_coco_is_refused(values: Any, message: str, tmp_path: Path) -> None:
    path = tmp_path / "set.json"
    path.write_text(json.dumps(values))
    with pytest.raises(DataError, match=message):
        CocoDataset(path, tmp_path, training=False)


@pytest.mark.parametrize("text", [b"", b"{", b"\xff\xfe\x00", b"[" * 200_000])
def test_a_file_that_is_not_json_is_refused(text: bytes, tmp_path: Path) -> None:
    path = tmp_path / "set.json"
    path.write_bytes(text)
    with pytest.raises(DataError, match=r"set\.json is not JSON"):
        CocoDataset(path, tmp_path, training=False)


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.json cannot be read \(No such file"):
        CocoDataset(tmp_path / "none.json", tmp_path, training=False)
    path = written(tmp_path, content([], [image(n) for n in range(10, 20)]))
    with pytest.raises(DataError, match=r"no folder at .*nowhere; expected the folder of the annotated images"):
        CocoDataset(path, tmp_path / "nowhere", training=False)
    for number in range(12, 20):
        (tmp_path / f"{number}.png").unlink()
    looked = r"; the first was looked for at .*/12\.png; this folder has 10\.png, \.\.\.: file_name is relative to"
    with pytest.raises(
        DataError,
        match=r"8 images are missing from .*: 12\.png \(image 12\), .* 16\.png \(image 16\), \.\.\." + looked,
    ):
        CocoDataset(path, tmp_path, training=False)


@pytest.mark.parametrize("name", ["sub/a.png", "a\nb.png", "x" * 300, "http://host/a.png", "..", "a\0b"])
def test_a_missing_file_is_named_as_the_annotations_name_it(name: str, tmp_path: Path) -> None:
    path = written(tmp_path, content([annotation()]))
    path.write_text(path.read_text().replace('"7.png"', json.dumps(name)))
    with pytest.raises(
        DataError, match=r"1 image is missing from .*: .* \(image 7\); the first was looked for at "
    ) as caught:
        CocoDataset(path, tmp_path, training=False)
    assert shown(name, 200) in str(caught.value)


def test_ids_of_categories_that_no_model_can_hold_are_refused_in_training(tmp_path: Path) -> None:
    values = content([annotation(category_id=2**64 - 1)])
    values["categories"][0]["id"] = 2**64 - 1
    path = written(tmp_path, values)
    assert CocoDataset(path, tmp_path, training=False).category_ids == (3, 2**64 - 1)
    with pytest.raises(DataError, match="has a category with id 18446744073709551615; expected ids of 64 bits with"):
        CocoDataset(path, tmp_path, training=True)


def test_an_image_that_is_damaged_or_of_another_size_is_named(tmp_path: Path) -> None:
    data = opened(tmp_path, annotation())
    Image.new("RGB", (WIDTH, HEIGHT + 1)).save(tmp_path / "7.png")
    with pytest.raises(DataError, match=r"7\.png is 64x49, but image 7 of .* is annotated as 64x48"):
        data[0]
    (tmp_path / "7.png").write_bytes((tmp_path / "7.png").read_bytes()[:60])
    with pytest.raises(DataError, match=r"7\.png cannot be decoded"):
        data[0]
