"""`canvases` wherever a predictor has options: commands, classes of options, and what they make of them."""

import inspect
import json
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from condinst_deploy.benchmarking.benchmark_settings import Settings
from condinst_deploy.benchmarking.worker import Worker
from condinst_deploy.cli.command import canvases_of
from condinst_deploy.errors import ConfigError
from condinst_deploy.evaluation.evaluate_models import evaluate
from condinst_deploy.evaluation.sources import EvaluationOptions
from condinst_deploy.runtime.observer import NETWORK, StageTimer
from condinst_deploy.serving.batch.batch_options import BatchOptions, DetectionOptions
from condinst_deploy.serving.triton.repository import write_repository
from condinst_deploy.serving.triton.repository_settings import RepositoryOptions, ServerSettings
from tests.support.models import noise_image

pytestmark = pytest.mark.usefixtures("one_thread")

COMMANDS = {
    "predict": "predict",
    "evaluate": "evaluate",
    "benchmark": "benchmark",
    "batch": "batch",
    "triton_repo": "triton_repo",
}
CANVAS = (128, 224)
WIDTHS = (128, 160, 192)


@pytest.mark.parametrize("module", COMMANDS)
def test_every_command_with_a_predictor_has_the_option_and_says_what_it_costs(module: str) -> None:
    command = getattr(import_module(f"condinst_deploy.cli.{module}"), COMMANDS[module])
    annotation: Any = inspect.signature(command).parameters["canvas"].annotation
    assert "95 % of the detections above 0.3 had a counterpart" in annotation.__metadata__[0].help


def test_the_help_has_the_measured_agreement() -> None:
    results = json.loads((Path(__file__).parents[2] / "benchmarks" / "results" / "canvases.json").read_text())
    measured = [
        target["measured"]
        for target in results["targets"]
        if target["name"].startswith("matched") and target["name"].endswith("above 0.3")
    ]
    assert len(measured) == 2
    assert all(round(share) == 95 for share in measured)


def test_texts_become_sizes() -> None:
    assert canvases_of(None) is canvases_of([]) is None
    assert canvases_of(["800x1344", "1344X800"]) == ((800, 1344), (1344, 800))
    with pytest.raises(ConfigError, match="--canvas is '800'; expected HEIGHTxWIDTH"):
        canvases_of(["800"])


def images_in(folder: Path) -> list[Path]:
    paths = [folder / f"{width}.png" for width in WIDTHS]
    for path, width in zip(paths, WIDTHS, strict=True):
        Image.fromarray(noise_image(width, 128, width)).save(path)
    return paths


def test_a_benchmark_times_batches_of_the_canvas(slim_onnx: Path, tmp_path: Path) -> None:
    paths = [str(path) for path in images_in(tmp_path)]
    shapes = []
    for canvases in (None, [list(CANVAS)]):
        worker = Worker()
        loaded = worker.load(str(slim_onnx), "cpu", {"paths": paths}, [3], canvases=canvases)
        shapes.append(len(loaded["first_of_shapes"]))
        assert worker.call(3, 0)["detections"] >= 0
    assert shapes == [3, 1]
    with pytest.raises(ConfigError, match="canvases is"):
        Settings(canvases="128x224")  # type: ignore[arg-type]


def test_an_evaluation_runs_on_the_canvas_and_records_it(slim_onnx: Path, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    images = [
        {"id": i, "file_name": path.name, "height": 128, "width": WIDTHS[i]} for i, path in enumerate(images_in(folder))
    ]
    box = {"bbox": [10, 10, 50, 50], "area": 2500, "segmentation": [[10, 10, 60, 10, 60, 60, 10, 60]], "iscrowd": 0}
    annotations = [box | {"id": i + 1, "image_id": i, "category_id": 1} for i in range(len(images))]
    categories = [{"id": i + 1, "name": f"class {name}"} for i, name in enumerate("abc")]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (tmp_path / "instances.json").write_text(json.dumps(content))
    timer = StageTimer()
    options = EvaluationOptions(tmp_path / "out", "cpu", batch_size=3, observer=timer, canvases=[CANVAS])
    found = evaluate(tmp_path / "instances.json", folder, [slim_onnx], options=options)
    assert [len(each.images) for each in timer.take() if each.stage == NETWORK] == [3]
    (side,) = found.evaluation.sides
    assert side.settings["canvases"] == [list(CANVAS)]


def test_a_batch_run_loads_the_model_with_them_and_records_them(slim_onnx: Path) -> None:
    detection = DetectionOptions("cpu", canvases=[tuple(np.array(CANVAS))])  # numbers of NumPy are numbers
    with detection.load(slim_onnx) as predictor:
        prepared = predictor.stages.prepare(noise_image(0, 128, 160), "image")
    assert prepared.geometry.padded == CANVAS
    options = BatchOptions("images", slim_onnx, "out", detection)
    assert json.loads(json.dumps(options.recorded()))["canvases"] == [list(CANVAS)]
    assert BatchOptions("images", slim_onnx, "out").recorded()["canvases"] is None


def test_a_model_repository_holds_them_for_the_server(slim_onnx: Path, tmp_path: Path) -> None:
    path = write_repository(slim_onnx, tmp_path / "repository", RepositoryOptions(canvases=(CANVAS, (224, 128))))
    (settings,) = path.rglob("condinst.json")
    assert ServerSettings.read(settings.parent).canvases == (CANVAS, (224, 128))
    assert "padded to 128x224, 224x128" in (path / "README.md").read_text()
    with pytest.raises(ConfigError, match="positive multiples of 32"):
        write_repository(slim_onnx, tmp_path / "other", RepositoryOptions(canvases=((100, 224),)))
    assert not (tmp_path / "other").exists()
    without = write_repository(slim_onnx, tmp_path / "without")
    (settings,) = without.rglob("condinst.json")
    assert ServerSettings.read(settings.parent).canvases is None
