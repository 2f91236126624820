"""Options of a wrong type are errors of ours at the start, whichever they are."""

import json
from dataclasses import fields
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from condinst_deploy.benchmarking.settings import Settings
from condinst_deploy.errors import ConfigError
from condinst_deploy.evaluation.sources import EvaluationOptions
from condinst_deploy.runtime.label_files import Format
from condinst_deploy.runtime.options import PredictorOptions
from condinst_deploy.runtime.predict_files import PredictFilesOptions
from condinst_deploy.runtime.preprocessing.types import InputOptions
from condinst_deploy.runtime.recording import FileOutputs
from condinst_deploy.serving.batch.options import BatchOptions, DetectionOptions
from condinst_deploy.serving.ray_session import RayOptions
from condinst_deploy.training.options import TrainOptions
from condinst_engines import BuildOptions
from condinst_export.options import ExportOptions

CLASSES = (
    BuildOptions, DetectionOptions, EvaluationOptions, ExportOptions, FileOutputs, InputOptions, PredictFilesOptions,
    RayOptions, Settings, TrainOptions,
)  # fmt: skip
UNCHECKED = {"thresholds"}  # a protocol


@pytest.mark.parametrize(
    ("options", "name"),
    [(options, field.name) for options in CLASSES for field in fields(options) if field.name not in UNCHECKED],
)
def test_no_option_takes_an_object_of_another_kind(options: Any, name: str) -> None:
    for value in (object(), b"x", {"a": 1}, 1j, [[[object()]]]):
        with pytest.raises(ConfigError, match=f"{name} is .*; expected "):
            options(**{name: value})


@pytest.mark.parametrize("name", [field.name for field in fields(BatchOptions)])
def test_no_option_of_a_batch_run_takes_an_object_of_another_kind(name: str) -> None:
    values: dict[str, Any] = {"input": "images", "model": Path("m.onnx"), "out": "out"}
    for value in (object(), b"x", {"a": 1}, 1j, [[[object()]]]):
        with pytest.raises(ConfigError, match=f"{name} is .*; expected "):
            BatchOptions(**{**values, name: value})


@pytest.mark.parametrize(
    ("options", "values", "message"),
    [
        (DetectionOptions, {"classes": "cat"}, "classes is 'cat'; expected a tuple, of each part text or None"),
        (DetectionOptions, {"max_detections": 2.5}, "max_detections is 2.5; expected a whole number or None"),
        (RayOptions, {"workers": 2.5}, "workers is 2.5; expected a whole number or None"),
        (RayOptions, {"workers": True}, "workers is True; expected a whole number or None"),
        (RayOptions, {"cpus_per_worker": "1"}, "cpus_per_worker is '1'; expected a number"),
        (EvaluationOptions, {"batch_size": 2.5}, "batch_size is 2.5; expected a whole number or None"),
        (EvaluationOptions, {"score_threshold": "0.5"}, "score_threshold is '0.5'; expected a number or None"),
        (EvaluationOptions, {"limit": -1}, "limit is -1; expected at least 1"),
        (EvaluationOptions, {"device": None}, "device is None; expected text"),
        (EvaluationOptions, {"fast": "no"}, "fast is 'no'; expected True or False"),
        (TrainOptions, {"iterations": True}, "iterations is True; expected a whole number or None"),
        (TrainOptions, {"weights": 7}, "weights is 7; expected a path or None"),
        (Settings, {"batches": 4}, "batches is 4; expected a tuple, of each part a whole number"),
        (Settings, {"size": (1,)}, "expected a tuple: a whole number, a whole number"),
        (FileOutputs, {"formats": frozenset({"png"})}, "expected a frozenset, of each part Format"),
        (ExportOptions, {"static_shape": "1x800x1344"}, "static_shape is '1x800x1344'; expected a tuple"),
        (BuildOptions, {"sm": "86"}, "sm is '86'; expected a tuple, of each part text or None"),
        (BuildOptions, {"workspace_gb": "4"}, "workspace_gb is '4'; expected a number or None"),
        (PredictFilesOptions, {"predictor": "m.onnx"}, "predictor is 'm.onnx'; expected PredictorOptions"),
    ],
)
def test_a_wrong_type_is_named_with_what_was_expected(options: Any, values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        options(**values)
    assert message in str(refused.value)


def test_what_means_the_same_is_taken() -> None:
    EvaluationOptions(out="out", batch_size=np.int64(2), score_threshold=np.float32(0.5), gate=1)  # type: ignore[arg-type]
    Settings(batches=[1, 2], size=[8, 8])  # type: ignore[arg-type]
    FileOutputs(formats=frozenset({Format.YOLO}), tolerance=1)
    PredictFilesOptions(Path("out"), PredictorOptions(device="cpu"))
    BuildOptions(recipe="data_centre", sm=("86",), workspace_gb=4)
    BatchOptions("images", "m.onnx", "out", DetectionOptions(classes=["cat"]))  # type: ignore[arg-type]


def test_numbers_of_numpy_can_be_written_into_the_manifest_of_a_batch_run() -> None:
    recorded = []
    for number in (np.int64, int):
        threshold = 0.25 if number is int else np.float32(0.25)
        values: dict[str, Any] = {"max_detections": number(3), "score_threshold": threshold}
        detection, size = DetectionOptions(**values), cast(int, number(5))
        recorded.append(
            json.dumps(BatchOptions("images", Path("m.onnx"), "out", detection, shard_size=size).recorded())
        )
    assert recorded[0] == recorded[1]


def test_places_of_a_training_set_can_be_written_into_its_recipe() -> None:
    with pytest.raises(ConfigError, match=r"train_images is .*; the recipe of the run names it: expected UTF-8"):
        TrainOptions(train_images=Path("a\udcff"))
