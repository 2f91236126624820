"""Options of a wrong type are errors of ours at the start, whichever they are."""

import contextlib
import json
from dataclasses import fields
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from condinst_deploy.benchmarking.benchmark_settings import Settings
from condinst_deploy.data.augmentation import Augmentation
from condinst_deploy.data.shapes_dataset import ShapesConfig
from condinst_deploy.errors import ConfigError
from condinst_deploy.evaluation.evaluate_models import evaluate
from condinst_deploy.evaluation.sources import EvaluationOptions
from condinst_deploy.model.checkpoints import load_model
from condinst_deploy.model.loss_plan import LossSettings
from condinst_deploy.runtime.cores import CpuThreads
from condinst_deploy.runtime.label_files import Format
from condinst_deploy.runtime.predict_files import PredictFilesOptions, predict_files
from condinst_deploy.runtime.predictor import Predictor, load_backend
from condinst_deploy.runtime.predictor_options import PredictorOptions
from condinst_deploy.runtime.preprocessing.types import InputOptions
from condinst_deploy.runtime.recording import FileOutputs
from condinst_deploy.serving import Client, detect_dataset
from condinst_deploy.serving.batch.batch_options import BatchOptions, DetectionOptions
from condinst_deploy.serving.protocol import RequestOptions
from condinst_deploy.serving.ray_session import RayOptions
from condinst_deploy.serving.triton.repository_settings import RepositoryOptions
from condinst_deploy.support.option_types import checked_arguments
from condinst_deploy.training.recipe import (
    DataSettings,
    ExecutionSettings,
    OptimizerSettings,
    Recipe,
    ScheduleSettings,
    StartSettings,
)
from condinst_deploy.training.train_model import train
from condinst_deploy.training.train_options import TrainOptions
from condinst_engines import BuildOptions, build_engine
from condinst_export import export_model
from condinst_export.export_options import ExportOptions
from condinst_export.quantization.calibration_options import CalibrationOptions

CLASSES = (
    Augmentation, BuildOptions, CalibrationOptions, CpuThreads, DataSettings, EvaluationOptions, ExecutionSettings,
    ExportOptions, FileOutputs, InputOptions, LossSettings, OptimizerSettings, PredictFilesOptions, PredictorOptions,
    Recipe, RepositoryOptions, RequestOptions, ScheduleSettings, Settings, ShapesConfig, StartSettings, TrainOptions,
    DetectionOptions, RayOptions,
)  # fmt: skip
NEEDED: dict[Any, dict[str, Any]] = {CalibrationOptions: {"folder": Path(__file__).parent}}


@pytest.mark.parametrize(
    ("options", "name"), [(options, field.name) for options in CLASSES for field in fields(options)]
)
def test_no_option_takes_an_object_of_another_kind(options: Any, name: str) -> None:
    for value in (object(), b"x", {"a": 1}, 1j, [[[object()]]]):
        with pytest.raises(ConfigError, match=f"{name} is .*; expected "):
            options(**NEEDED.get(options, {}) | {name: value})


@pytest.mark.parametrize("name", ["url", "model", "timeout", "retries", "in_flight", "options", "pauses"])
def test_a_client_takes_no_object_of_another_kind(name: str) -> None:
    arguments: dict[str, Any] = {"url": "http://127.0.0.1:1"}
    for value in (object(), b"x", {"a": 1}, 1j, [[[object()]]]):
        with pytest.raises(ConfigError, match=f"{name} is .*; expected "):
            Client(**arguments | {name: value})


@pytest.mark.parametrize(
    ("function", "needed", "names"),
    [
        (train, {"recipe": "r.toml"}, ("recipe", "options", "reports")),
        (evaluate, {"annotations": "a.json"}, ("annotations", "images", "models", "results", "options", "hooks")),
        (predict_files, {"model": "m.onnx", "images": "images"}, ("model", "images", "options", "reports")),
        (export_model, {"weights": "m.pth"}, ("weights", "out", "options", "reports")),
        (build_engine, {"onnx": "m.onnx"}, ("onnx", "out", "options", "reports")),
        (load_model, {"path": "m.pth"}, ("path", "family", "content")),
        (load_backend, {"path": "m.pth"}, ("path", "device", "threads", "precision", "score_threshold")),
        (Predictor, {"model": "m.onnx"}, ("model", "options")),
        (detect_dataset, {"dataset": None, "model": "m.onnx"}, ("model", "column", "detection", "ray_options")),
    ],
)
def test_no_function_takes_an_argument_of_another_kind(
    function: Any, needed: dict[str, Any], names: tuple[str, ...]
) -> None:
    for name in names:
        for value in (object(), b"x", 1j, [[[object()]]], 0):
            if (name, value) == ("score_threshold", 0):
                continue
            with pytest.raises(ConfigError, match=f"{name} is .*; expected "):
                function(**needed | {name: value})


def test_further_values_of_a_function_are_not_taken_for_its_options() -> None:
    @checked_arguments
    def joined(first: str, *others: str, end: int = 0) -> str:
        return f"{first}{''.join(others)}{end}"

    assert joined("a", "b", "c", end=1) == "abc1"
    with pytest.raises(ConfigError, match="end is 'd'; expected a whole number"):
        joined("a", end="d")  # type: ignore[arg-type]


def test_one_model_in_place_of_a_list_is_not_taken_for_its_letters() -> None:
    with pytest.raises(ConfigError, match=r"models is 'm.onnx'; expected a list, of each part a path"):
        evaluate("a.json", models="m.onnx")


def test_numbers_of_numpy_become_those_of_python() -> None:
    options = PredictorOptions(
        batch_size=np.uint8(200),  # type: ignore[arg-type]
        score_threshold=np.float32(0.5),  # type: ignore[arg-type]
        canvases=[(np.uint8(160), 32)],  # type: ignore[list-item]
        inputs=InputOptions(workers=np.uint8(9)),  # type: ignore[arg-type]
    )
    assert options.batch_size is not None
    assert options.batch_size * 2 == 400  # it would wrap to 144
    assert options.canvases == [(160, 32)]
    assert options.canvases is not None
    taken = (options.batch_size, options.score_threshold, options.canvases[0][0], options.inputs.workers)
    assert [type(number) for number in taken] == [int, float, int, int]


def test_an_array_without_axes_is_no_list() -> None:
    with pytest.raises(ConfigError, match=r"classes is array\(0\); expected a list"):
        PredictorOptions(classes=np.array(0))


@pytest.mark.parametrize("workers", [0, 1025, 10**400])
def test_threads_that_prepare_images_are_bounded(workers: int) -> None:
    with pytest.raises(ConfigError, match=r"workers is .*; expected a whole number from 1 to 1024"):
        InputOptions(workers=workers)


@pytest.mark.parametrize(
    ("options", "name"), [(options, field.name) for options in CLASSES for field in fields(options)]
)
def test_a_number_that_no_float_holds_is_taken_or_refused_in_a_short_line(options: Any, name: str) -> None:
    for number in (10**400, 10**5000, -(10**5000), float("inf"), float("nan")):
        for value in (number, (number,), (number, 1), (1, number), ((number, 1),)):
            message = ""
            try:
                options(**NEEDED.get(options, {}) | {name: value})
            except ConfigError as e:
                message = str(e)
            assert len(message) < 500


@pytest.mark.parametrize("name", ["batch_size", "window_batches", "max_detections", "score_threshold"])
def test_a_number_of_thousands_of_digits_is_described(name: str) -> None:
    several: tuple[Any, ...] = (PredictorOptions, RequestOptions)
    for options in several:
        if name in {field.name for field in fields(options)}:
            with contextlib.suppress(ConfigError):  # a model may have to decide
                options(**{name: -(10**5000)})
    with pytest.raises(ConfigError, match=r"the number of threads is a whole number of .* bits; expected 1 to 4,096"):
        CpuThreads(10**5000)


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
        (CpuThreads, {"count": 2.5}, "count is 2.5; expected a whole number or None"),
        (CpuThreads, {"spin": 1}, "spin is 1; expected True or False"),
        (RequestOptions, {"classes": "cat"}, "classes is 'cat'; expected a tuple, of each part text or None"),
        (RequestOptions, {"score_threshold": "0.5"}, "score_threshold is '0.5'; expected a number or None"),
        (CalibrationOptions, {"folder": ".", "images": "9"}, "images is '9'; expected a whole number"),
        (RepositoryOptions, {"delay_ms": "5"}, "delay_ms is '5'; expected a number"),
        (PredictorOptions, {"canvases": [(800,)]}, "canvases is [(800,)]; expected a list, of each part a tuple"),
        (PredictorOptions, {"classes": {"cat": 1}}, "classes is {'cat': 1}; expected a list, of each part text or a"),
        (PredictorOptions, {"observer": "timer"}, "observer is 'timer'; expected a function or None"),
        (OptimizerSettings, {"betas": 0.9}, "optimizer.betas is 0.9; expected a tuple: a number, a number"),
        (StartSettings, {"norm_eval": "no"}, "start.norm_eval is 'no'; expected True or False"),
        (PredictFilesOptions, {"thresholds": 0.5}, "thresholds is 0.5; expected LabelThresholds or None"),
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
    PredictorOptions(classes={"cat"}, canvases=[[800, 1344]], max_detections=np.int64(3))  # type: ignore[list-item,arg-type]
    PredictorOptions(classes=np.array([1, 2]))
    assert CalibrationOptions(".").folder == Path()  # type: ignore[arg-type]


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
