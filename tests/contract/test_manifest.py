"""The manifest: it survives JSON, and what it cannot be is refused."""

import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from condinst_deploy.contract import (
    MANIFEST_VERSION,
    ModelManifest,
    Preprocessing,
    Selection,
    contiguous_ids,
    default_class_names,
)
from condinst_deploy.errors import ArtifactError

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


def test_a_manifest_written_before_there_were_families_is_mmdetections() -> None:
    values = json.loads(MANIFEST.to_json())
    del values["preprocessing"]["family"], values["selection"]["family"]
    assert ModelManifest.from_dict(values) == MANIFEST


@pytest.mark.parametrize("part", ["preprocessing", "selection"])
def test_a_manifest_whose_families_differ_is_refused(part: str) -> None:
    values = json.loads(MANIFEST.to_json())
    values[part]["family"] = "adelaidet"
    with pytest.raises(
        ArtifactError, match=rf"in the manifest {part}\.family is 'adelaidet', which this release cannot use"
    ):
        ModelManifest.from_dict(values)


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


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, r"is not JSON that can be read \(nested too deeply\); export the model again"),
        ('{"version":' + "1" * 5000 + "}", r"version a whole number of 16,607 bits; .*export the model again"),
        (
            MANIFEST.to_json().replace("{", '{"max_detections": -' + "1" * 5000 + ",", 1),
            r"max_detections is a whole number of 16,607 bits; expected",
        ),
    ],
    ids=["deep", "a long version", "a long integer"],
)
def test_json_that_python_cannot_read_is_refused_in_one_line(text: str, message: str) -> None:
    with pytest.raises(ArtifactError, match=message) as refused:
        ModelManifest.from_json(text)
    assert len(str(refused.value)) < 200


def test_the_name_of_a_source_that_is_not_unicode_is_made_printable() -> None:
    text = MANIFEST.to_json().replace("weights.pth", "\\udcff.pth")
    assert ModelManifest.from_json(text).source == "\\udcff.pth"


VERSIONS = ["null", "[]", "1", '"text"', "{}", '{"version": 0}', '{"version": "1"}', '{"version": true}']


@pytest.mark.parametrize("text", VERSIONS)
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
        ("tools", {"torch": 2}),
        ("class_names", ["cat", 3]),
        ("class_names", ["cat", "\ud800"]),
        ("category_ids", [True, 2]),
        ("category_ids", [1, 2**70]),
        ("static_shape", [1, 10**6, 800]),
        ("mask_stride", True),
        ("precision", 16),
        ("selection", {"max_detections": 10**9}),
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
