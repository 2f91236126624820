"""Which detections are kept."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from condinst_deploy.errors import ConfigError
from condinst_deploy.model.checkpoints import save_model
from condinst_deploy.runtime.predictor import Predictor
from tests.support.models import SLIM_ADELAIDET, manifest_of, noise_image, seeded_model
from tests.support.predictions import IMAGE, assert_equal

pytestmark = pytest.mark.usefixtures("one_thread")


def test_a_raised_threshold_filters_strictly(models: dict[str, Path], predictors: dict[str, Predictor]) -> None:
    (every,) = predictors["onnxruntime"]([IMAGE])
    threshold = float(every.scores[2])
    with Predictor(models["onnxruntime"], device="cpu", score_threshold=threshold) as predictor:
        assert_equal(predictor([IMAGE])[0], every[:2])


@pytest.mark.parametrize("threshold", [0.049, 0.0, -1.0, 1.01, float("nan")])
def test_a_threshold_cannot_be_lowered_nor_pass_one(threshold: float, slim_onnx: Path) -> None:
    with pytest.raises(ConfigError, match=r"the model was made with 0.05 and can only be raised"):
        Predictor(slim_onnx, device="cpu", score_threshold=threshold)


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


@pytest.mark.parametrize("limit", [0, -1, 101])
def test_a_limit_outside_the_models_slots_is_an_error(limit: int, slim_onnx: Path) -> None:
    with pytest.raises(ConfigError, match=f"max_detections is {limit}; expected 1 to 100"):
        Predictor(slim_onnx, device="cpu", max_detections=limit)


@pytest.mark.parametrize("size", [0, -1])
def test_a_batch_of_nothing_is_an_error(size: int, slim_checkpoint: Path) -> None:
    with pytest.raises(ConfigError, match=f"batch_size is {size}; expected at least 1"):
        Predictor(slim_checkpoint, device="cpu", batch_size=size)


def test_adelaidets_lowest_threshold_is_on_the_scale_of_its_scores(tmp_path: Path) -> None:
    save_model(tmp_path / "model.pth", seeded_model(SLIM_ADELAIDET), manifest_of(SLIM_ADELAIDET))
    with pytest.raises(ConfigError, match=r"score_threshold is 0.2; the model was made with") as refused:
        Predictor(tmp_path / "model.pth", device="cpu", score_threshold=0.2)
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
