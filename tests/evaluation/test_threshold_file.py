"""Thresholds of a model, read from an evaluation."""

import json
from pathlib import Path
from typing import Any

import pytest

from condinst_deploy.contract import ModelManifest
from condinst_deploy.errors import ConfigError, DataError
from condinst_deploy.evaluation.threshold_file import load_thresholds
from condinst_deploy.support.digests import sha256_of_bytes

MODEL = b"a model"


def side(name: str, overall: Any, digest: str = "", **classes: Any) -> dict[str, Any]:
    return {
        "name": name,
        "settings": {"model": {"sha256": digest}},
        "thresholds": {
            "overall": {"threshold": overall},
            "per_class": [{"name": key, "threshold": value} for key, value in classes.items()],
        },
    }


def written(folder: Path, *sides: dict[str, Any]) -> tuple[Path, Path]:
    (folder / "m.onnx").write_bytes(MODEL)
    (folder / "figures.json").write_text(json.dumps({"sides": sides}))
    return folder / "figures.json", folder / "m.onnx"


def manifest(*names: str) -> ModelManifest:
    return ModelManifest(class_names=names, category_ids=tuple(range(1, len(names) + 1)))


def test_the_side_of_the_same_file_is_taken(tmp_path: Path) -> None:
    mine = side("b", 0.4, sha256_of_bytes(MODEL), cat=0.25, dog=None)
    found = load_thresholds(*written(tmp_path, side("a", 0.3), mine))
    assert (found.source, found.exact, found.overall) == ("b", True, 0.4)
    # in the model's order; a class without objects takes the overall one
    assert found.per_label(manifest("dog", "cat")) == (0.4, 0.25)
    assert found.per_label(manifest("class_0", "class_1")) == (0.25, 0.4)
    with pytest.raises(ConfigError, match="no class 'owl'"):
        found.per_label(manifest("dog", "owl"))


def test_metrics_of_before_that_say_pictures_are_read(tmp_path: Path) -> None:
    mine = side("a", 0.3, sha256_of_bytes(MODEL)) | {"pictures_from_journal": 2}
    mine["settings"]["pictures"] = "ab" * 32
    path, model = written(tmp_path, mine)
    compared = [{"name": "b", "worst_pictures": [{"image_id": 1}]}]
    path.write_text(json.dumps(json.loads(path.read_text()) | {"pictures": 2, "comparisons": compared}))
    found = load_thresholds(path, model)
    assert (found.exact, found.overall) == (True, 0.3)


def test_the_only_side_is_taken_and_known_to_be_another(tmp_path: Path) -> None:
    found = load_thresholds(*written(tmp_path, side("a", 0.3)))
    assert (found.source, found.exact) == ("a", False)
    own = sha256_of_bytes(MODEL)[:12]
    assert found.origin.startswith("they were made for other content: 'a' (SHA-256 ); --model ")
    assert found.origin.endswith(f"m.onnx has SHA-256 {own}")


def test_thresholds_of_other_content_name_both_files_and_what_to_do(tmp_path: Path) -> None:
    """The refusals are about classes or sides; what caused them is that another model was evaluated."""
    own, other = sha256_of_bytes(MODEL)[:12], "ab" * 32
    path, model = written(tmp_path, side("a", 0.3, other, cat=0.2))
    for refused in (
        lambda: load_thresholds(path, model).per_label(manifest("owl")),
        lambda: load_thresholds(*written(tmp_path, side("a", 0.3, other), side("b", 0.3))),
    ):
        with pytest.raises(ConfigError) as error:
            refused()
        text = str(error.value)
        assert "made for other content: 'a' (SHA-256 abababababab)" in text
        assert f"--model {model} has SHA-256 {own}. Run condinst-eval with this model" in text


def test_several_other_sides_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"were made for other content: 'a' \(SHA-256 \), 'b'"):
        load_thresholds(*written(tmp_path, side("a", 0.3), side("b", 0.3)))


@pytest.mark.parametrize("value", ["0.5", True, float("nan"), -0.1, 1.5, [0.5]])
def test_what_is_no_threshold_is_refused(tmp_path: Path, value: Any) -> None:
    with pytest.raises(DataError, match=r"(overall\.threshold|threshold) is .*; expected a"):
        load_thresholds(*written(tmp_path, side("a", value)))


def test_a_class_that_is_there_twice_is_refused_unless_the_model_has_it_twice(tmp_path: Path) -> None:
    doubled = side("a", 0.5)
    doubled["thresholds"]["per_class"] = [{"name": "cat", "threshold": 0.2}, {"name": "cat", "threshold": 0.9}]
    found = load_thresholds(*written(tmp_path, doubled))
    with pytest.raises(ConfigError, match=r"the thresholds have the class 'cat' more than once; expected the figures"):
        found.per_label(manifest("cat"))
    # a data set may have two categories of one name; its model has them in the same order
    assert found.per_label(manifest("cat", "cat")) == (0.2, 0.9)


def test_a_number_outside_the_range_is_named_with_its_place(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r": sides\[0\]\.thresholds\.per_class\[1\]\.threshold is -1\.0; expected"):
        load_thresholds(*written(tmp_path, side("a", 0.5, cat=0.2, dog=-1.0)))


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"sides": []}', '{"sides": [1]}', '{"sides": [{"name": "a"}]}'])
def test_other_files_are_refused(tmp_path: Path, content: str) -> None:
    path, model = written(tmp_path)
    path.write_text(content)
    with pytest.raises(DataError, match=r"expected the figures\.json of condinst-eval"):
        load_thresholds(path, model)


def test_an_evaluation_that_found_nothing_has_no_threshold(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has no best threshold"):
        load_thresholds(*written(tmp_path, side("a", None)))
