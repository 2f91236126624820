"""The data set to evaluate on: what it holds, and one line for everything that is wrong with it."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from condinst_deploy.contract import ModelManifest
from condinst_deploy.errors import ConfigError, DataError
from condinst_deploy.evaluation.coco_metrics import Kind, evaluate_coco
from condinst_deploy.evaluation.ground_truth import crowding_note, load_ground_truth
from condinst_deploy.evaluation.results_reader import read_results
from tests.support import small_coco


def changed(folder: Path, **values: Any) -> tuple[Path, Path]:
    return small_coco.written(folder, small_coco.content() | values)


def test_classes_are_sorted_by_id_and_images_keep_the_files_order(tmp_path: Path) -> None:
    annotations, images = changed(tmp_path, images=small_coco.content()["images"][::-1])
    ground_truth = load_ground_truth(annotations, images)
    assert ground_truth.category_ids == (1, 13, 90)
    assert ground_truth.class_names == ("person", "stop sign", "toothbrush")
    assert ground_truth.image_ids == (632, 285, 139)
    assert ground_truth.paths[0] == images / "000000000632.png"
    assert ground_truth.size(139) == (200, 200)
    assert ground_truth.name_of(13) == "stop sign"
    assert len(load_ground_truth(annotations, images, limit=2)) == 2
    assert len(load_ground_truth(annotations, images, limit=9)) == 3
    ground_truth.paths[2].unlink()
    assert (
        load_ground_truth(annotations, images, limit=2).paths == ground_truth.paths[:2]
    )  # the others need not be there
    with pytest.raises(DataError, match=ground_truth.paths[2].name):
        load_ground_truth(annotations, images, limit=3)


def test_results_alone_need_no_images(tmp_path: Path) -> None:
    annotations, images = small_coco.written(tmp_path)
    for path in images.iterdir():
        path.unlink()
    assert not load_ground_truth(annotations, None).has_images
    with pytest.raises(DataError, match=r"3 images are missing from .*000000000139\.png"):
        load_ground_truth(annotations, images)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("no json", "is not JSON"),
        ("[1, 2]", "has no list 'images'"),
        ('{"images": []}', "has no list 'annotations'"),
        ('{"images": [], "annotations": [], "categories": []}', "has no images"),
    ],
)
def test_a_file_that_is_not_cocos_is_one_line(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(DataError, match=message):
        load_ground_truth(tmp_path / "x.json", None)


def test_no_ground_truth_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no ground truth: nothing is annotated in its 3 images"):
        load_ground_truth(*changed(tmp_path, annotations=[]))
    crowd_alone = [entry for entry in small_coco.content()["annotations"] if entry["iscrowd"]]
    with pytest.raises(DataError, match="has no ground truth"):
        load_ground_truth(*changed(tmp_path, annotations=crowd_alone))
    annotations, images = changed(tmp_path, images=small_coco.content()["images"][::-1])
    with pytest.raises(DataError, match="nothing is annotated in its 1 image to evaluate"):
        load_ground_truth(annotations, images, limit=1)


def test_a_damaged_crowd_is_named(tmp_path: Path) -> None:
    values = small_coco.content()
    values["annotations"][1]["segmentation"] = {"size": [200, 200], "counts": "0123"}
    with pytest.raises(DataError, match="annotation 11 has a damaged RLE"):
        load_ground_truth(*small_coco.written(tmp_path, values))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_every_encoding_of_json_is_read(encoding: str, tmp_path: Path) -> None:
    annotations, images = small_coco.written(tmp_path)
    annotations.write_bytes(annotations.read_text().encode(encoding))
    assert len(load_ground_truth(annotations, images).coco.anns) == 5


@pytest.mark.parametrize(
    "segmentation",
    [
        None,
        [],
        [[1, 2, 3, 4]],
        {"size": [200, 200], "counts": "0123"},
        {"size": [200, 200], "counts": [1, 2]},
        "absent",
    ],
)
@pytest.mark.parametrize(
    "skipped", [{"ignore": 1}, {"area": 0}, {"bbox": [10, 10, 0.5, 0.5]}, {"bbox": [300, 10, 20, 20]}, {"iscrowd": 1}]
)
@pytest.mark.parametrize("with_area", [True, False])
def test_objects_that_are_no_targets_are_looked_at_too(
    segmentation: Any, skipped: dict[str, Any], with_area: bool, tmp_path: Path
) -> None:
    values = small_coco.content()
    entry = values["annotations"][2] | {"segmentation": segmentation}
    if segmentation == "absent":
        del entry["segmentation"]
    if not with_area:
        del entry["area"]
    values["annotations"][2] = entry | skipped
    with pytest.raises(DataError, match="annotation 12 has "):
        load_ground_truth(*small_coco.written(tmp_path, values))


@pytest.mark.parametrize("value", ["0", 2, [], float("nan")])
def test_an_iscrowd_that_is_neither_0_nor_1_is_one_line(value: Any, tmp_path: Path) -> None:
    values = small_coco.content()
    values["annotations"][2]["iscrowd"] = value
    with pytest.raises(DataError, match=r"annotation 12 has iscrowd .*; expected 0 or 1"):
        load_ground_truth(*small_coco.written(tmp_path, values))


@pytest.mark.parametrize(("value", "crowds"), [(True, 2), (False, 1), (1.0, 2), (0.0, 1)])
def test_an_iscrowd_may_be_of_any_number_type(value: Any, crowds: int, tmp_path: Path) -> None:
    values = small_coco.content()
    values["annotations"][2]["iscrowd"] = value
    ground_truth = load_ground_truth(*small_coco.written(tmp_path, values))
    assert len(ground_truth.coco.getAnnIds(iscrowd=True)) == crowds


def test_boxes_that_are_mostly_corners_are_refused_and_a_few_are_noted(tmp_path: Path) -> None:
    content = small_coco.content()
    objects = [entry for entry in content["annotations"] if not entry["iscrowd"]]
    for count, entry in enumerate(objects[:3], 1):
        x, y, width, height = entry["bbox"]
        entry["bbox"] = [x, y, x + width, y + height]
        annotations, _ = small_coco.written(tmp_path / str(count), content)
        if count < 3:
            (note,) = load_ground_truth(annotations, None).notes
            assert note.startswith(f"warning: {count} object")
            assert "annotation 10: [10, 10, 30, 30] instead of [10, 10, 20, 20]" in note
        else:
            with pytest.raises(
                DataError, match=r"cannot be evaluated on: 3 objects with the corners \[x1, y1, x2, y2\]"
            ):
                load_ground_truth(annotations, None)
    assert load_ground_truth(small_coco.written(tmp_path)[0], None).notes == ()


@pytest.mark.parametrize("limit", [0, -3])
def test_a_limit_below_one_is_an_error(limit: int, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"the limit is {limit}"):
        load_ground_truth(*small_coco.written(tmp_path), limit=limit)


def manifest(*names: str) -> ModelManifest:
    return ModelManifest(class_names=names, category_ids=tuple(range(1, len(names) + 1)))


def test_a_models_labels_get_the_data_sets_ids_by_their_names(tmp_path: Path) -> None:
    ground_truth = load_ground_truth(*small_coco.written(tmp_path))
    assert ground_truth.category_ids_of(manifest("person", "stop sign", "toothbrush"), "m.pth") == (1, 13, 90)
    assert ground_truth.category_ids_of(manifest("toothbrush", "person", "stop sign"), "m.pth") == (90, 1, 13)
    assert ground_truth.category_ids_of(manifest("class_0", "class_1", "class_2"), "m.pth") == (1, 13, 90)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ("person", "stop sign"),
            r"has 2 classes and .* 3, .*only the data has toothbrush; expected .*--ignore-class toothbrush",
        ),
        (
            ("person",),
            r"--ignore-class 'stop sign' --ignore-class toothbrush to leave the objects of these classes out",
        ),
        (
            ("person", "stop sign", "comb"),
            r"only the model has comb; only the data has toothbrush; expected the classes .* trained on$",
        ),
        (
            ("person", "stop sign", "toothbrush", "comb"),
            r"only the model has comb; expected .* trained on: add them to the data's categories, .*objects$",
        ),
        (("class_0", "class_1"), r"only the model has class_0, class_1; only the data has person, stop sign"),
        (("person", "person", "stop sign"), r"m\.pth has 3 classes"),
        (tuple("abcdefgh"), r"only the model has a, b, c, d, e, \.\.\.; "),
        (("person", "x" * 100_000), r"only the model has x{1,60} ?\(?[^x]{1,60}x{0,60}; only the data has .*expected"),
    ],
)
def test_other_classes_are_one_line(names: tuple[str, ...], message: str, tmp_path: Path) -> None:
    ground_truth = load_ground_truth(*small_coco.written(tmp_path))
    with pytest.raises(ConfigError, match=message):
        ground_truth.category_ids_of(manifest(*names), "m.pth")


def test_classes_that_only_the_data_has_can_be_ignored(tmp_path: Path) -> None:
    annotations, images = small_coco.written(tmp_path)
    ground_truth = load_ground_truth(annotations, images, ignored=("stop sign",))
    assert (ground_truth.class_names, ground_truth.category_ids) == (("person", "toothbrush"), (1, 90))
    assert len(ground_truth) == 3  # images stay: what is found on them counts
    assert ground_truth.notes == ("left out: 2 objects of the ignored class 'stop sign'",)
    assert {entry["category_id"] for entry in ground_truth.coco.dataset["annotations"]} == {1, 90}
    assert ground_truth.category_ids_of(manifest("toothbrush", "person"), "m.pth") == (90, 1)
    results = tmp_path / "results.json"
    results.write_text(json.dumps(small_coco.results()))
    entries = read_results(results, ground_truth)
    assert [entry["category_id"] for entry in entries] == [1, 1, 1, 90]
    whole = load_ground_truth(annotations, images)
    kinds: tuple[Kind, ...] = ("bbox", "segm")
    for kind in kinds:
        kept = evaluate_coco(ground_truth.coco, entries, kind)
        before = evaluate_coco(whole.coco, read_results(results, whole), kind)
        assert kept.per_class == {i: before.per_class[i] for i in (1, 90)}
    with pytest.raises(
        ConfigError, match=r"'stopsign', which .* does not have: its classes are .*Did you mean 'stop si"
    ):
        load_ground_truth(annotations, images, ignored=("stopsign",))


def test_where_all_objects_are_ignored_the_error_says_so(tmp_path: Path) -> None:
    annotations, _ = small_coco.written(tmp_path)
    everything = ("person", "stop sign", "toothbrush")
    with pytest.raises(DataError, match=r"left out: \d+ objects of the ignored classes 'person', .*of other classes"):
        load_ground_truth(annotations, None, ignored=everything)


def test_an_ignored_class_that_the_model_has_is_named_as_the_cause(tmp_path: Path) -> None:
    ground_truth = load_ground_truth(*small_coco.written(tmp_path), ignored=("stop sign",))
    with pytest.raises(
        ConfigError,
        match=r"^--ignore-class leaves out stop sign; m\.pth has it; expected classes that only the data has$",
    ):
        ground_truth.category_ids_of(manifest("person", "stop sign", "toothbrush"), "m.pth")


def test_a_class_with_a_space_at_its_end_is_quoted(tmp_path: Path) -> None:
    ground_truth = load_ground_truth(*small_coco.written(tmp_path))
    with pytest.raises(ConfigError, match="only the model has 'person '; only the data has person; "):
        ground_truth.category_ids_of(manifest("person ", "stop sign", "toothbrush"), "m.pth")


def test_coco_itself_has_91_ids_with_gaps(tmp_path: Path) -> None:
    from condinst_deploy.contract.coco_classes import COCO_CLASSES

    values = small_coco.content() | {"categories": [{"id": i, "name": name} for i, name in COCO_CLASSES.items()]}
    annotations, _ = small_coco.written(tmp_path, values)
    ground_truth = load_ground_truth(annotations, None)
    ids = ground_truth.category_ids_of(manifest(*COCO_CLASSES.values()), "coco.pth")  # with ids 1..80 of its own
    assert ids == tuple(COCO_CLASSES)
    assert (len(ids), ids[11], ids[-1]) == (80, 13, 90)
    assert json.loads(annotations.read_text())["categories"][-1]["id"] == 90


@pytest.mark.parametrize(
    ("counts", "noted"),
    [
        ([(139, 1, 6000)], "image 139 has 6,000 objects of one class: .* some 6 s"),
        ([(139, 1, 4000), (285, 1, 3000)], "7 s"),
        ([(139, 1, 4000), (285, 1, 500), (285, 13, 900)], ""),
        ([(139, 1, 3000), (632, 1, 3000)], ""),
    ],
)
def test_a_long_wait_for_crowded_images_is_said(counts: list[tuple[int, int, int]], noted: str, tmp_path: Path) -> None:
    boxes = [(image, category) for image, category, count in counts for _ in range(count)]
    objects = [small_coco.annotation(i, *place, (10, 10, 20, 20)) for i, place in enumerate(boxes, 1)]
    annotations, _ = changed(tmp_path, annotations=objects)
    note = crowding_note(load_ground_truth(annotations, None, limit=2))  # the third image is left out
    assert re.search(noted, note) if noted else note == ""
    assert ("--fast" in note) == bool(noted)
