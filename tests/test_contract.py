"""The types that everything speaks: sizes, settings, the manifest and detections."""

import json
import math
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import supervision
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from condinst_deploy.coco_classes import COCO_CLASSES
from condinst_deploy.contract import (
    MANIFEST_VERSION,
    Family,
    ImageGeometry,
    InstanceDetections,
    ModelManifest,
    Preprocessing,
    Selection,
    contiguous_ids,
    default_class_names,
)
from condinst_deploy.drawing import PALETTE
from condinst_deploy.errors import ArtifactError, ConfigError
from condinst_deploy.masks import Masks, Selector
from condinst_deploy.model.families import ADELAIDET_PREPROCESSING
from tests.models import GOLDEN, noise_picture

Size = tuple[int, int]

HEIGHT, WIDTH = 60, 90
SIDE = st.integers(1, 6000)


def detections(count: int, names: tuple[str, ...] = ("cat", "dog", "owl")) -> InstanceDetections:
    """Discs in a row, sorted by score; the fourth one has no pixels."""
    y, x = np.ogrid[:HEIGHT, :WIDTH]
    centres = [(24 + 2 * i, 12 + 9 * i) for i in range(count)]
    discs = [(y - cy) ** 2 + (x - cx) ** 2 <= (0 if i == 3 else 64) - (i == 3) for i, (cy, cx) in enumerate(centres)]
    boxes = [(cx - 8.25, cy - 8.5, cx + 9.0, cy + 9.75) for cy, cx in centres]
    return InstanceDetections(
        boxes=np.array(boxes, dtype=np.float32).reshape(-1, 4),
        scores=np.linspace(0.9, 0.1, count, dtype=np.float32),
        labels=np.arange(count, dtype=np.int64) % len(names),
        masks=Masks.from_dense(np.array(discs, dtype=np.bool_).reshape(-1, HEIGHT, WIDTH)),
        class_names=names,
        category_ids=tuple(10 * (i + 1) for i in range(len(names))),
    )


# sizes are (height, width)
@pytest.mark.parametrize(
    ("original", "resized", "padded"),
    [
        ((400, 600), (800, 1200), (800, 1216)),
        ((600, 400), (1200, 800), (1216, 800)),
        ((512, 512), (800, 800), (800, 800)),
        ((480, 640), (800, 1067), (800, 1088)),
        ((427, 640), (800, 1199), (800, 1216)),
        ((1080, 1920), (750, 1333), (768, 1344)),
        ((3000, 4000), (800, 1067), (800, 1088)),
        ((800, 1333), (800, 1333), (800, 1344)),
        ((1, 1), (800, 800), (800, 800)),
        ((1, 2), (667, 1333), (672, 1344)),
        ((20, 1000), (27, 1333), (32, 1344)),
        ((1000, 20), (1333, 27), (1344, 32)),
        ((1, 2666), (1, 1333), (32, 1344)),
        ((1, 3000), (1, 1333), (32, 1344)),
        ((3000, 1), (1333, 1), (1344, 32)),
        ((1, 100_000), (1, 1333), (32, 1344)),
    ],
)
def test_known_sizes(original: Size, resized: Size, padded: Size) -> None:
    assert ImageGeometry.of(original, Preprocessing()) == ImageGeometry(original, resized, padded)


@pytest.mark.parametrize("name", ["astronaut", "coffee"])
def test_sizes_are_those_that_mmdetection_recorded(name: str) -> None:
    with np.load(GOLDEN / "mmdet" / f"{name}_seed0.npz") as archive:
        height, width = archive["0.ori_shape"].tolist()
        geometry = ImageGeometry.of((height, width), Preprocessing())
        assert geometry.resized == tuple(archive["0.img_shape"].tolist())
        assert geometry.padded == tuple(archive["input_shape"].tolist()[-2:])


@pytest.mark.parametrize(
    ("original", "resized", "mmdet"),
    [
        # what detectron2's ResizeShortestEdge.get_output_shape gives for 800 and 1333, and mmdetection's rule
        ((480, 640), (800, 1067), (800, 1067)),
        ((640, 427), (1199, 800), (1199, 800)),
        ((612, 612), (800, 800), (800, 800)),
        ((1080, 1920), (750, 1333), (750, 1333)),
        ((100, 1000), (133, 1333), (133, 1333)),
        # exactly a half in real numbers: two roundings come out below it, or above it
        ((222, 372), (795, 1333), (796, 1333)),
        ((407, 682), (795, 1333), (796, 1333)),
        ((372, 138), (1333, 494), (1333, 495)),
        ((470, 860), (728, 1333), (729, 1333)),
        ((622, 311), (1333, 667), (1333, 666)),
        ((298, 596), (667, 1333), (666, 1333)),
    ],
)
def test_adelaidets_sizes_are_rounded_in_two_steps(original: Size, resized: Size, mmdet: Size) -> None:
    assert ImageGeometry.of(original, ADELAIDET_PREPROCESSING).resized == resized
    assert ImageGeometry.of(original, Preprocessing()).resized == mmdet


@pytest.mark.parametrize("canvas", [(800, 1344), (1344, 800), (320, 320)])
@pytest.mark.parametrize("original", [(400, 600), (600, 400), (1000, 20), (222, 372), (1, 3000)])
def test_adelaidets_pictures_fit_a_canvas(original: Size, canvas: Size) -> None:
    geometry = ImageGeometry.of(original, ADELAIDET_PREPROCESSING, canvas)
    one_step = ImageGeometry.of(original, Preprocessing(), canvas)
    assert geometry.padded == canvas
    for side, limit, other in zip(geometry.resized, canvas, one_step.resized, strict=True):
        assert 1 <= side <= limit
        assert abs(side - other) <= 1


@pytest.mark.parametrize("name", ["astronaut", "coffee"])
def test_sizes_are_those_that_adelaidet_recorded(name: str) -> None:
    with np.load(GOLDEN / "adelaidet" / f"{name}_seed0.npz") as archive:
        height, width = archive["im0_original_hw"].tolist()
        geometry = ImageGeometry.of((height, width), ADELAIDET_PREPROCESSING)
        assert geometry.resized == tuple(archive["im0_resized_hw"].tolist())
        assert geometry.padded == tuple(archive["im0_padded_hw"].tolist())


@pytest.mark.parametrize("family", ["mmdet", "adelaidet"])
@given(height=SIDE, width=SIDE, short=st.integers(1, 1000), more=st.integers(0, 1000))
@settings(deadline=None, derandomize=True, max_examples=300)
def test_sizes_follow_the_rule_in_exact_arithmetic(
    family: Family, height: int, width: int, short: int, more: int
) -> None:
    preprocessing = Preprocessing(short_side=short, long_side=short + more, family=family)
    geometry = ImageGeometry.of((height, width), preprocessing)
    scale = min(Fraction(short, min(height, width)), Fraction(short + more, max(height, width)))
    for side, resized, padded in zip((height, width), geometry.resized, geometry.padded, strict=True):
        exact = side * scale
        # a half may be rounded either way by the references' floating-point scale
        allowed = {math.floor(exact + Fraction(1, 2)), math.ceil(exact - Fraction(1, 2))}
        assert resized in {max(1, n) for n in allowed}
        assert padded % 32 == 0
        assert 0 <= padded - resized < 32


@pytest.mark.parametrize(
    ("original", "resized"),
    [
        ((400, 600), (800, 1200)),
        ((600, 400), (800, 533)),
        ((1000, 20), (800, 16)),
        ((20, 1000), (27, 1333)),
        ((1, 1), (800, 800)),
        ((3000, 1), (800, 1)),
        ((800, 1344), (793, 1333)),
    ],
)
def test_landscape_canvas_takes_pictures_of_both_orientations(original: Size, resized: Size) -> None:
    geometry = ImageGeometry.of(original, Preprocessing(), (800, 1344))
    assert geometry == ImageGeometry(original, resized, (800, 1344))


@pytest.mark.parametrize(
    ("original", "resized"), [((600, 400), (1200, 800)), ((400, 600), (533, 800)), ((20, 1000), (16, 800))]
)
def test_portrait_canvas_takes_pictures_of_both_orientations(original: Size, resized: Size) -> None:
    geometry = ImageGeometry.of(original, Preprocessing(), (1344, 800))
    assert geometry == ImageGeometry(original, resized, (1344, 800))


@given(SIDE, SIDE, st.integers(1, 60), st.integers(1, 60))
@settings(deadline=None, derandomize=True, max_examples=300)
def test_every_picture_fits_into_every_canvas(height: int, width: int, rows: int, columns: int) -> None:
    canvas = (32 * rows, 32 * columns)
    geometry = ImageGeometry.of((height, width), Preprocessing(), canvas)
    free = ImageGeometry.of((height, width), Preprocessing())
    assert geometry.padded == canvas
    assert all(1 <= side <= limit for side, limit in zip(geometry.resized, canvas, strict=True))
    if all(side <= limit for side, limit in zip(free.resized, canvas, strict=True)):
        assert geometry.resized == free.resized
    else:
        assert any(side == limit for side, limit in zip(geometry.resized, canvas, strict=True))


def test_boxes_go_back_to_original_pixels() -> None:
    geometry = ImageGeometry(original=(50, 300), resized=(200, 600), padded=(224, 608))
    boxes = np.array([[0, 0, 600, 200], [20, 20, 61, 42]], dtype=np.float32)
    back = geometry.to_original(boxes)
    assert back.dtype == np.float32
    assert back.tolist() == [[0, 0, 300, 50], [10, 5, 30.5, 10.5]]


@pytest.mark.parametrize("original", [(427, 640), (1, 3000), (3000, 1), (1, 1)])
def test_whole_network_picture_is_the_whole_original(original: Size) -> None:
    geometry = ImageGeometry.of(original, Preprocessing())
    height, width = geometry.resized
    corner = geometry.to_original(np.array([[0, 0, width, height]], dtype=np.float32))
    np.testing.assert_allclose(corner, [[0, 0, original[1], original[0]]], rtol=1e-6)


def test_no_boxes_go_back_to_no_boxes() -> None:
    back = ImageGeometry.of((4, 6), Preprocessing()).to_original(np.zeros((0, 4), dtype=np.float32))
    assert back.shape == (0, 4)
    assert back.dtype == np.float32


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"short_side": 0}, "short side 0"),
        ({"short_side": 1334}, "short side 1334 and long side 1333"),
        ({"pad_divisor": 0}, "pad_divisor is 0; expected a multiple of 32"),
        ({"pad_divisor": 16}, "pad_divisor is 16"),
        ({"pad_divisor": 48}, "pad_divisor is 48"),
        ({"mean": (1.0, 2.0)}, "expected three numbers each"),
        ({"std": (1.0, 2.0, 3.0, 4.0)}, "expected three numbers each"),
        ({"std": (1.0, 0.0, 1.0)}, "std above 0"),
        ({"family": "yolact"}, "family is 'yolact'; expected one of mmdet, adelaidet"),
    ],
)
def test_preprocessing_that_cannot_work_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Preprocessing(**values)


@pytest.mark.parametrize("values", [{"short_side": 1, "long_side": 1}, {"pad_divisor": 64}])
def test_preprocessing_at_the_limits_is_taken(values: dict[str, Any]) -> None:
    assert all(getattr(Preprocessing(**values), name) == value for name, value in values.items())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"score_threshold": -0.01}, "score_threshold is -0.01"),
        ({"score_threshold": 1.01}, "score_threshold is 1.01"),
        ({"score_threshold": math.nan}, "score_threshold is nan"),
        ({"nms_iou": 1.5}, "nms_iou is 1.5"),
        ({"candidates_per_level": 0}, "candidates_per_level is 0; expected"),
        ({"max_detections": 0}, "max_detections is 0; expected"),
        ({"family": None}, "family is None; expected one of mmdet, adelaidet"),
    ],
)
def test_selection_that_cannot_work_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Selection(**values)


@pytest.mark.parametrize(
    "values",
    [{"score_threshold": 0.0}, {"score_threshold": 1.0}, {"nms_iou": 0.0}, {"nms_iou": 1.0}, {"max_detections": 1}],
)
def test_selection_at_the_limits_is_taken(values: dict[str, Any]) -> None:
    assert all(getattr(Selection(**values), name) == value for name, value in values.items())


def test_the_lowest_score_is_on_the_scale_of_the_scores() -> None:
    assert Selection().lowest_score == 0.05
    assert Selection(family="adelaidet").lowest_score == pytest.approx(0.2236068)


def test_a_manifest_written_before_there_were_families_is_mmdetections() -> None:
    values = json.loads(MANIFEST.to_json())
    del values["preprocessing"]["family"], values["selection"]["family"]
    assert ModelManifest.from_dict(values) == MANIFEST


@pytest.mark.parametrize("part", ["preprocessing", "selection"])
def test_a_manifest_whose_families_differ_is_refused(part: str) -> None:
    values = json.loads(MANIFEST.to_json())
    values[part]["family"] = "adelaidet"
    with pytest.raises(ArtifactError, match=f"in the manifest {part} is .*'adelaidet'"):
        ModelManifest.from_dict(values)


def test_settings_of_unknown_names_are_refused() -> None:
    with pytest.raises(ConfigError, match="unknown settings of Preprocessing: bgr, pad"):
        Preprocessing.from_dict({"pad": 1, "bgr": True, "short_side": 640})
    with pytest.raises(ConfigError, match="unknown settings of Selection: topk"):
        Selection.from_dict({"topk": 1})


def test_settings_that_are_not_named_keep_their_defaults() -> None:
    assert Preprocessing.from_dict({"short_side": 640}) == Preprocessing(short_side=640)
    assert Preprocessing.from_dict({"mean": [1, 2, 3]}) == Preprocessing(mean=(1.0, 2.0, 3.0))
    assert Selection.from_dict({}) == Selection()


def test_from_dict_leaves_its_argument_alone() -> None:
    values: dict[str, Any] = {"mean": [1, 2, 3]}
    Preprocessing.from_dict(values)
    assert values == {"mean": [1, 2, 3]}


MANIFEST = ModelManifest(
    class_names=("cat", "guide dog"),
    category_ids=(17, 18),
    family="mmdet",
    preprocessing=Preprocessing(mean=(1.5, 2.0, 3.0), std=(1.0, 1.25, 57.375), short_side=640, pad_divisor=64),
    selection=Selection(0.3, 500, 0.5, 17),
    mask_stride=8,
    precision="float16",
    static_shape=(1, 800, 1344),
    source="weights.pth",
    source_sha256="0" * 64,
    tools={"torch": "2.11.0"},
)


def test_manifest_survives_json_whole() -> None:
    text = MANIFEST.to_json()
    assert "\n" not in text
    assert ModelManifest.from_json(text) == MANIFEST


def test_manifest_of_defaults_survives_json() -> None:
    manifest = ModelManifest(("a",), (1,))
    assert ModelManifest.from_json(manifest.to_json()) == manifest


@given(
    names=st.lists(st.text(max_size=8), min_size=1, max_size=5),
    threshold=st.floats(0, 1),
    mean=st.tuples(*[st.floats(0, 255)] * 3),
    static=st.none() | st.tuples(*[st.integers(1, 4096)] * 3),
)
@settings(deadline=None, derandomize=True, max_examples=100)
def test_any_manifest_survives_json(
    names: list[str], threshold: float, mean: tuple[float, float, float], static: tuple[int, int, int] | None
) -> None:
    manifest = ModelManifest(
        class_names=tuple(names),
        category_ids=contiguous_ids(names),
        preprocessing=Preprocessing(mean=mean),
        selection=Selection(score_threshold=threshold),
        static_shape=static,
    )
    assert ModelManifest.from_json(manifest.to_json()) == manifest


@pytest.mark.parametrize("text", ["", "{", "condinst", "{'a': 1}", MANIFEST.to_json()[:-1]])
def test_manifest_that_is_not_json_is_refused(text: str) -> None:
    with pytest.raises(ArtifactError, match=r"is not JSON .*export the model again"):
        ModelManifest.from_json(text)


@pytest.mark.parametrize("text", ["null", "[]", "1", '"text"', "{}", '{"version": 0}', '{"version": "1"}'])
def test_manifest_of_another_version_is_refused(text: str) -> None:
    with pytest.raises(ArtifactError, match=f"has version .*; this release reads {MANIFEST_VERSION}"):
        ModelManifest.from_json(text)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("colour", "bgr"),
        ("class_names", []),
        ("class_names", ["cat"]),
        ("class_names", None),
        ("category_ids", []),
        ("category_ids", [1, 2, 3]),
        ("category_ids", ["one", "two"]),
        ("preprocessing", None),
        ("preprocessing", ["mean"]),
        ("preprocessing", {"mean": 1}),
        ("preprocessing", {"mean": "abc"}),
        ("preprocessing", {"short_side": "800"}),
        ("preprocessing", {"short_side": -1}),
        ("preprocessing", {"bgr": True}),
        ("selection", {"score_threshold": "high"}),
        ("selection", {"score_threshold": 2}),
        ("selection", {"max_detections": None}),
        ("selection", {"topk": 1}),
        ("static_shape", 1),
        ("static_shape", [1, "h", 2]),
        ("class_names", "ab"),
        ("category_ids", [1.7, 2]),
        ("family", "yolo"),
        ("mask_stride", "8"),
        ("static_shape", [800, 1344]),
        ("selection", {"candidates_per_level": 1.5}),
        ("preprocessing", {"std": [math.nan, 1, 1]}),
        ("tools", ["torch"]),
    ],
)
def test_manifest_with_an_entry_of_another_kind_is_refused(name: str, value: Any) -> None:
    values = json.loads(MANIFEST.to_json()) | {name: value}
    with pytest.raises(ArtifactError):
        ModelManifest.from_json(json.dumps(values))


@pytest.mark.parametrize("name", ["class_names", "category_ids", "preprocessing", "selection"])
def test_manifest_without_an_entry_is_refused_by_its_name(name: str) -> None:
    values = json.loads(MANIFEST.to_json())
    del values[name]
    with pytest.raises(ArtifactError, match=name):
        ModelManifest.from_dict(values)


def test_manifest_needs_a_class_and_an_id_for_each() -> None:
    with pytest.raises(ArtifactError, match="0 class names and 0 category ids"):
        ModelManifest((), ())
    with pytest.raises(ArtifactError, match="2 class names and 1 category ids"):
        ModelManifest(("a", "b"), (1,))


def test_names_and_ids_of_classes_that_nobody_named() -> None:
    assert default_class_names(3) == ("class_0", "class_1", "class_2")
    assert contiguous_ids(("x", "y", "z")) == (1, 2, 3)
    assert default_class_names(0) == ()
    assert contiguous_ids(()) == ()


def test_coco_has_80_classes_with_the_official_ids() -> None:
    ids = list(COCO_CLASSES)
    assert len(ids) == len(set(COCO_CLASSES.values())) == 80
    assert ids == sorted(ids)
    assert set(range(1, 91)) - set(ids) == {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
    assert max(ids) == 90


@pytest.mark.parametrize(
    ("label", "category_id", "name"),
    [
        (0, 1, "person"),
        (2, 3, "car"),
        (10, 11, "fire hydrant"),
        (11, 13, "stop sign"),
        (15, 17, "cat"),
        (24, 27, "backpack"),
        (39, 44, "bottle"),
        (60, 67, "dining table"),
        (61, 70, "toilet"),
        (62, 72, "tv"),
        (72, 82, "refrigerator"),
        (73, 84, "book"),
        (79, 90, "toothbrush"),
    ],
)
def test_known_coco_classes(label: int, category_id: int, name: str) -> None:
    assert list(COCO_CLASSES.items())[label] == (category_id, name)


def changed(**changes: Any) -> InstanceDetections:
    return replace(detections(2), **changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"boxes": np.zeros((1, 4), np.float32)},
        {"boxes": np.zeros((2, 5), np.float32)},
        {"boxes": np.zeros(8, np.float32)},
        {"scores": np.zeros(3, np.float32)},
        {"scores": np.zeros((2, 1), np.float32)},
        {"labels": np.zeros(1, np.int64)},
        {"labels": np.zeros((2, 2), np.int64)},
        {"masks": detections(1).masks},
    ],
)
def test_fields_of_different_lengths_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"expected \(n, 4\), \(n,\), \(n,\), n"):
        changed(**changes)


@pytest.mark.parametrize(
    ("labels", "outlier"),
    [
        ([0, 3], 3),
        ([-1, -1], -1),
        ([-1, 2], -1),
    ],
)
def test_label_without_a_name_is_refused_and_told(labels: list[int], outlier: int) -> None:
    with pytest.raises(ConfigError, match=f"labels reach {outlier}; there are 3 class names"):
        changed(labels=np.array(labels))


def test_labels_may_reach_the_last_class() -> None:
    assert changed(labels=np.array([2, 0])).names == ["owl", "cat"]


@pytest.mark.parametrize("which", [0, -1, slice(1, None), [2, 0], [], np.array([False, True, False, True])], ids=str)
def test_indexing_detections_picks_the_same_of_every_field(which: Selector) -> None:
    whole = detections(4)
    part = whole[which]
    picked = np.atleast_1d(np.arange(4)[which])
    assert len(part) == len(picked)
    assert np.array_equal(part.boxes, whole.boxes[picked])
    assert np.array_equal(part.scores, whole.scores[picked])
    assert np.array_equal(part.labels, whole.labels[picked])
    assert np.array_equal(np.asarray(part.masks), np.asarray(whole.masks)[picked])
    assert part.names == [whole.names[i] for i in picked]
    assert (part.class_names, part.category_ids) == (whole.class_names, whole.category_ids)


def test_detections_can_be_iterated() -> None:
    assert [part.names for part in iter(detections(4))] == [["cat"], ["dog"], ["owl"], ["cat"]]


def test_detection_that_is_not_there_is_an_index_error() -> None:
    with pytest.raises(IndexError):
        detections(2)[2]


def ground_truth() -> COCO:
    coco = COCO()
    coco.dataset = {
        "info": {},
        "images": [{"id": 42, "height": HEIGHT, "width": WIDTH}],
        "categories": [{"id": i, "name": name} for i, name in COCO_CLASSES.items()],
        "annotations": [],
    }
    coco.createIndex()
    return coco


def coco_detections(count: int) -> InstanceDetections:
    found = detections(count, tuple(COCO_CLASSES.values()))
    labels = (np.arange(count, dtype=np.int64) * 79 // max(count - 1, 1)) % 80
    return replace(found, labels=labels, category_ids=tuple(COCO_CLASSES))


def test_coco_results_load_in_pycocotools() -> None:
    found = coco_detections(5)
    entries = json.loads(json.dumps(found.to_coco(42)))
    loaded = ground_truth().loadRes(entries)
    annotations = loaded.loadAnns(loaded.getAnnIds(imgIds=[42]))
    assert len(annotations) == len(found)
    dense = np.asarray(found.masks)
    for i, annotation in enumerate(annotations):
        category = loaded.loadCats(annotation["category_id"])[0]
        assert category["name"] == found.names[i]
        assert annotation["score"] == pytest.approx(float(found.scores[i]))
        x, y, width, height = annotation["bbox"]
        assert [x, y, x + width, y + height] == found.boxes[i].tolist()
        assert np.array_equal(loaded.annToMask(annotation), dense[i])


def test_coco_results_evaluate_perfectly_against_themselves() -> None:
    entries = coco_detections(3).to_coco(42)
    truth = ground_truth()
    truth.dataset["annotations"] = [
        {key: value for key, value in entry.items() if key != "score"}
        | {"id": i + 1, "iscrowd": 0, "area": entry["bbox"][2] * entry["bbox"][3]}
        for i, entry in enumerate(entries)
    ]
    truth.createIndex()
    for kind in ("bbox", "segm"):
        evaluation = COCOeval(truth, truth.loadRes([dict(entry) for entry in entries]), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
        assert evaluation.stats[0] == pytest.approx(1)


def test_no_detections_are_no_coco_results() -> None:
    assert detections(0).to_coco(1) == []


@pytest.mark.parametrize("count", [0, 1, 4])
def test_supervision_gets_the_same_detections(count: int) -> None:
    found = detections(count)
    theirs = found.to_supervision()
    assert isinstance(theirs, supervision.Detections)
    assert len(theirs) == count
    assert np.array_equal(theirs.xyxy, found.boxes)
    assert theirs.mask is not None
    assert theirs.confidence is not None
    assert theirs.class_id is not None
    assert np.array_equal(theirs.mask, np.asarray(found.masks))
    assert theirs.mask.dtype == np.bool_
    assert np.array_equal(theirs.confidence, found.scores)
    assert np.array_equal(theirs.class_id, found.labels)
    assert list(theirs.data["class_name"]) == found.names


def test_supervision_can_filter_and_annotate_them() -> None:
    found = detections(4)
    theirs = found.to_supervision()
    dogs = theirs[theirs.data["class_name"] == "dog"]
    assert isinstance(dogs, supervision.Detections)
    assert np.array_equal(dogs.xyxy, found[found.labels == 1].boxes)
    blank = np.zeros((HEIGHT, WIDTH, 3), dtype=np.uint8)
    annotated = np.asarray(supervision.MaskAnnotator(opacity=1).annotate(blank.copy(), theirs))
    assert np.array_equal(annotated.any(axis=2), np.asarray(found.masks).any(axis=0))


def picture() -> npt.NDArray[np.uint8]:
    return noise_picture(5, HEIGHT, WIDTH)


def test_drawing_colours_the_mask_and_leaves_the_rest() -> None:
    found = detections(1)
    pixels = picture()
    drawn = np.asarray(found.draw(pixels))
    assert drawn.shape == pixels.shape
    # rows of the caption and the box's outline are left out
    inside = np.asarray(found.masks)[0] & (np.mgrid[:HEIGHT, :WIDTH][0] > 18)
    inside[:, [3, 4, 21]] = False
    blend = (pixels[inside] * np.float32(0.5) + np.array(PALETTE[0], np.float32) * np.float32(0.5)).astype(np.uint8)
    assert inside.sum() > 100
    assert np.array_equal(drawn[inside], blend)
    differs = (drawn != pixels).any(axis=2)
    assert not differs[36:].any()
    assert not differs[:, 60:].any()


def test_drawing_shows_the_box_and_a_caption_above_it() -> None:
    drawn = np.asarray(detections(1).draw(np.zeros((HEIGHT, WIDTH, 3), dtype=np.uint8)))
    rows, columns = np.nonzero((drawn == PALETTE[0]).all(axis=2))
    x1, y1, _, y2 = detections(1).boxes[0]
    assert rows.max() == pytest.approx(y2, abs=1)
    assert columns.min() == pytest.approx(x1, abs=1)
    white = np.flatnonzero((drawn.min(axis=2) > 200).any(axis=1))
    assert len(white) >= 5
    assert y1 - 13 < white.min() <= white.max() < y1


def test_drawing_leaves_the_picture_itself_alone() -> None:
    pixels = picture()
    detections(4).draw(pixels)
    assert np.array_equal(pixels, picture())


def test_best_detection_is_drawn_on_top() -> None:
    both = InstanceDetections(
        boxes=np.array([[0, 0, 89, 59]] * 2, dtype=np.float32),
        scores=np.array([0.9, 0.5], dtype=np.float32),
        labels=np.array([0, 1]),
        masks=Masks.from_dense(np.ones((2, HEIGHT, WIDTH))),
        class_names=("cat", "dog"),
        category_ids=(1, 2),
    )
    blank = np.zeros((HEIGHT, WIDTH, 3), dtype=np.uint8)
    drawn = np.asarray(both.draw(blank))
    red, green, blue = PALETTE[0]
    assert np.array_equal(drawn[59, 40], (red, green, blue))
    second_then_first = np.array(PALETTE[1]) // 2 // 2 + np.array(PALETTE[0]) // 2
    np.testing.assert_allclose(drawn[40, 40].astype(int), second_then_first, atol=1)


def test_drawing_nothing_gives_an_equal_picture() -> None:
    assert np.array_equal(np.asarray(detections(0).draw(picture())), picture())


def test_drawing_on_a_pil_picture_is_drawing_on_its_pixels() -> None:
    found = detections(4)
    drawn = found.draw(Image.fromarray(picture()))
    assert isinstance(drawn, Image.Image)
    assert drawn.size == (WIDTH, HEIGHT)
    assert drawn.mode == "RGB"
    assert np.array_equal(np.asarray(drawn), np.asarray(found.draw(picture())))


def test_drawing_on_a_grey_pil_picture_is_drawing_on_rgb() -> None:
    grey = Image.fromarray(picture()).convert("L")
    expected = detections(2).draw(np.repeat(np.asarray(grey)[..., None], 3, axis=2))
    assert np.array_equal(np.asarray(detections(2).draw(grey)), np.asarray(expected))


def test_drawing_takes_a_read_only_picture() -> None:
    pixels = picture()
    pixels.flags.writeable = False
    assert np.asarray(detections(1).draw(pixels)).any()


def test_drawing_on_one_pixel() -> None:
    speck = InstanceDetections(
        boxes=np.array([[0, 0, 1, 1]], dtype=np.float32),
        scores=np.ones(1, dtype=np.float32),
        labels=np.zeros(1, dtype=np.int64),
        masks=Masks.from_dense(np.ones((1, 1, 1))),
        class_names=("cat",),
        category_ids=(1,),
    )
    assert speck.draw(np.zeros((1, 1, 3), dtype=np.uint8)).size == (1, 1)


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((WIDTH, HEIGHT, 3), np.uint8),
        np.zeros((HEIGHT, WIDTH, 4), np.uint8),
        np.zeros((HEIGHT, WIDTH, 3), np.float32),
        np.zeros((HEIGHT, WIDTH, 3), np.uint16),
    ],
    ids=lambda pixels: f"{pixels.dtype} {pixels.shape}",
)
def test_drawing_on_another_picture_is_refused(pixels: npt.NDArray[Any]) -> None:
    with pytest.raises(ConfigError, match=r"expected uint8 \(60, 90, 3\), the picture that was predicted on"):
        detections(1).draw(pixels)


def test_drawing_on_a_pil_picture_of_another_size_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"uint8 \(90, 60, 3\)"):
        detections(1).draw(Image.new("RGB", (HEIGHT, WIDTH)))


def test_a_grey_or_rotated_picture_that_was_predicted_on_can_be_drawn_on() -> None:
    found = InstanceDetections(
        boxes=np.array([[1, 1, 5, 4]], dtype=np.float32),
        scores=np.array([0.9], dtype=np.float32),
        labels=np.array([0]),
        masks=Masks.from_dense(np.ones((1, 6, 8), dtype=np.uint8)),
        class_names=("cat",),
        category_ids=(1,),
    )
    assert found.draw(np.zeros((6, 8), dtype=np.uint8)).size == (8, 6)
    sideways = Image.new("L", (6, 8))
    sideways.getexif()[0x0112] = 6
    assert found.draw(sideways).size == (8, 6)
    assert np.asarray(found.draw(np.zeros((6, 8, 3), dtype=np.uint8), score_threshold=0.95)).max() == 0
    assert repr(found) == "InstanceDetections(1 in 8x6: cat 0.90)"
    assert repr(found.masks) == "Masks(1 in 8x6)"
