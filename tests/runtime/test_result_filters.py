"""Which detections are kept."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from condinst_deploy.contract.model_settings import Selection
from condinst_deploy.contract.precision import Precision
from condinst_deploy.errors import ConfigError
from condinst_deploy.model.checkpoints import save_model
from condinst_deploy.model.config import CondInstConfig
from condinst_deploy.runtime.predictor import Predictor
from condinst_deploy.runtime.predictor_options import PredictorOptions
from tests.support.models import SLIM, SLIM_ADELAIDET, manifest_of, noise_image, seeded_model
from tests.support.predictions import IMAGE, assert_equal

pytestmark = pytest.mark.usefixtures("one_thread")


class Limited(NamedTuple):
    """Limits that a checkpoint is made with."""

    threshold: float
    most: int


def test_a_raised_threshold_filters_strictly(models: dict[str, Path], predictors: dict[str, Predictor]) -> None:
    (every,) = predictors["onnxruntime"]([IMAGE])
    threshold = float(every.scores[2])
    with Predictor(models["onnxruntime"], device="cpu", score_threshold=threshold) as predictor:
        assert_equal(predictor([IMAGE])[0], every[:2])


@pytest.mark.parametrize("threshold", [0.049, 0.0])
def test_a_threshold_of_an_exported_file_cannot_be_lowered(threshold: float, slim_onnx: Path) -> None:
    with pytest.raises(ConfigError, match=r"the model was made with 0.05 and can only be raised from there"):
        Predictor(slim_onnx, device="cpu", score_threshold=threshold)


@pytest.mark.parametrize("threshold", [-1.0, 1.01, float("nan")])
@pytest.mark.parametrize("kind", ["torch", "onnxruntime"])
def test_a_threshold_is_from_zero_to_one(threshold: float, kind: str, models: dict[str, Path]) -> None:
    with pytest.raises(ConfigError, match=r"score_threshold is .*; expected a number from 0 to 1"):
        Predictor(models[kind], device="cpu", score_threshold=threshold)


@pytest.mark.parametrize(
    ("classes", "labels"),
    [
        (["class b"], {1}),
        ([1], {1}),
        (["class c", "class a"], {0, 2}),
        ([0, "class c"], {0, 2}),
        ((0, 1, 2), {0, 1, 2}),
        ([], set()),
    ],
)
def test_classes_are_chosen_by_name_or_label(
    classes: list[Any], labels: set[int], slim_onnx: Path, predictors: dict[str, Predictor]
) -> None:
    (every,) = predictors["onnxruntime"]([IMAGE])
    assert set(every.labels.tolist()) == {0, 1, 2}
    with Predictor(slim_onnx, device="cpu", classes=classes) as predictor:
        assert_equal(predictor([IMAGE])[0], every[np.isin(every.labels, sorted(labels))])


@pytest.mark.parametrize("unknown", ["class d", "", "Class a", 3, -1])
def test_an_unknown_class_is_an_error_that_lists_the_classes(unknown: Any, slim_onnx: Path) -> None:
    with pytest.raises(ConfigError, match=f"no class {unknown!r}; its classes are class a, class b, class c"):
        Predictor(slim_onnx, device="cpu", classes=["class a", unknown])


def test_a_class_of_a_wrong_type_is_an_error(slim_onnx: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"classes is \['class a', 1\.5\]; expected a list, of each part text or a whole"
    ):
        Predictor(slim_onnx, device="cpu", classes=["class a", 1.5])  # type: ignore[list-item]


@pytest.mark.parametrize("limit", [1, 2, 100])
def test_the_best_detections_are_kept(limit: int, slim_onnx: Path, predictors: dict[str, Predictor]) -> None:
    (every,) = predictors["onnxruntime"]([IMAGE])
    with Predictor(slim_onnx, device="cpu", max_detections=limit) as predictor:
        (kept,) = predictor([IMAGE])
    assert len(kept) == min(limit, len(every))
    assert_equal(kept, every[:limit])


def test_the_limit_counts_what_the_other_filters_keep(slim_onnx: Path, predictors: dict[str, Predictor]) -> None:
    (every,) = predictors["onnxruntime"]([IMAGE])
    with Predictor(slim_onnx, device="cpu", classes=["class b"], max_detections=2) as predictor:
        assert_equal(predictor([IMAGE])[0], every[every.labels == 1][:2])


def test_a_limit_above_an_exported_files_slots_is_an_error(slim_onnx: Path) -> None:
    with pytest.raises(ConfigError, match="max_detections is 101; the model was made for 100 at most"):
        Predictor(slim_onnx, device="cpu", max_detections=101)


@pytest.mark.parametrize("limit", [0, -1, 10_001])
@pytest.mark.parametrize("kind", ["torch", "onnxruntime"])
def test_a_limit_is_a_number_of_detections(limit: int, kind: str, models: dict[str, Path]) -> None:
    with pytest.raises(ConfigError, match=f"max_detections is {limit}; expected a whole number from 1 to 10000"):
        Predictor(models[kind], device="cpu", max_detections=limit)


@pytest.mark.parametrize("architecture", [SLIM, SLIM_ADELAIDET], ids=["mmdet", "adelaidet"])
@pytest.mark.parametrize("precision", ["float32", "float16"])
@pytest.mark.parametrize("own", [Limited(0.3, 5), Limited(0.9, 100), Limited(0.05, 1)])
def test_options_replace_a_checkpoints_own_limits(
    own: Limited, precision: Precision, architecture: CondInstConfig, tmp_path: Path
) -> None:
    """What is found is what the same weights without these limits give, in the same order."""
    wide, narrow = tmp_path / "wide.pth", tmp_path / "narrow.pth"
    for path, limits in ((wide, Limited(0.01, 300)), (narrow, own)):
        selection = replace(architecture.selection, score_threshold=limits.threshold, max_detections=limits.most)
        config = replace(architecture, selection=selection)
        save_model(path, seeded_model(config), manifest_of(config))
    asked = replace(architecture.selection, score_threshold=0.01).lowest_score
    options = PredictorOptions(device="cpu", precision=precision, score_threshold=asked, max_detections=300)
    with Predictor(wide, options) as predictor:
        (expected,) = predictor([IMAGE])
    with Predictor(narrow, device="cpu", precision=precision) as predictor:
        (few,) = predictor([IMAGE])
    assert len(few) < len(expected)
    with Predictor(narrow, options) as predictor:
        assert_equal(predictor([IMAGE])[0], expected)
        assert "the options replace" in predictor.backend.note


def test_the_note_on_replaced_limits_shows_values_that_differ(slim_checkpoint: Path) -> None:
    with Predictor(slim_checkpoint, device="cpu", score_threshold=0.0499999999) as predictor:
        assert "the options replace the score threshold 0.05 by 0.0499999999" in predictor.backend.note


def test_limits_inside_a_checkpoints_own_change_no_model(slim_checkpoint: Path) -> None:
    with Predictor(slim_checkpoint, device="cpu", score_threshold=0.2, max_detections=3) as predictor:
        assert predictor.manifest.selection == Selection()
        assert "options" not in predictor.backend.note


@pytest.mark.parametrize("size", [0, -1])
def test_a_batch_of_nothing_is_an_error(size: int, slim_checkpoint: Path) -> None:
    with pytest.raises(ConfigError, match=f"batch_size is {size}; expected at least 1"):
        Predictor(slim_checkpoint, device="cpu", batch_size=size)


def test_adelaidets_lowest_threshold_is_on_the_scale_of_its_scores(tmp_path: Path) -> None:
    save_model(tmp_path / "model.pth", seeded_model(SLIM_ADELAIDET), manifest_of(SLIM_ADELAIDET))
    with Predictor(tmp_path / "model.pth", device="cpu") as predictor:
        backend = predictor.backend
        with pytest.raises(ConfigError, match=r"score_threshold is 0.2; the model was made with") as refused:
            Predictor(backend, score_threshold=0.2)  # loaded already
    named = re.search(r"made with (\S+)", str(refused.value))
    assert named is not None
    assert named[1] == "0.2237"  # the square root of 0.05, rounded up: what is named is accepted
    Predictor(tmp_path / "model.pth", device="cpu", score_threshold=float(named[1])).close()
    images = [noise_image(seed, 128, 224) for seed in (0, 1)]
    with Predictor(tmp_path / "model.pth", device="cpu") as everything:
        found = everything(images)
    assert min(detections.scores.min() for detections in found) > 0.2236
    with Predictor(tmp_path / "model.pth", device="cpu", score_threshold=0.5) as sure:
        for all_of_them, few in zip(found, sure(images), strict=True):
            assert few.scores.tolist() == [score for score in all_of_them.scores.tolist() if score > 0.5]
