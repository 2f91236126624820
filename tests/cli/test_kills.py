"""Long commands that are stopped at random moments: what is there is whole, the next run ends well, no litter stays."""

import json
import shutil
import signal
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support import small_coco
from tests.support.kills import SIGNALS, Job, leftovers, moments, stopped_at
from tests.support.models import SLIM, manifest_of

RECIPE = """
base = "shapes_slim"
short_sides = [64]
late_short_sides = []
late_iterations = 0
log_every = 1
checkpoint_every = 4
[data]
shapes = false
workers = 1
[schedule]
iterations = 12
batch_size = 2
warmup_iterations = 0
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Images and annotations, and a folder beside them that jobs write into."""
    generator = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    for image_id in small_coco.IMAGES:
        pixels = generator.integers(0, 255, (small_coco.SIDE, small_coco.SIDE, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{image_id:012d}.png")
    content = small_coco.content()
    names = zip(content["categories"], manifest_of(SLIM).class_names, strict=True)
    content["categories"] = [category | {"name": name} for category, name in names]
    (tmp_path / "a.json").write_text(json.dumps(content))
    (tmp_path / "work").mkdir()
    return tmp_path


def job_of(command: str, place: Path, model: Path, checkpoint: Path) -> Job:
    images, annotations, out = str(place / "images"), str(place / "a.json"), place / "work" / "out"
    if command == "predict":
        arguments = [images, "--model", str(model), "--out", str(out)]
        return Job("condinst_deploy.commands", "predict", arguments, out)
    if command == "evaluate":
        arguments = ["--model", str(model), "--annotations", annotations, "--images", images, "--out", str(out)]
        return Job("condinst_deploy.commands", "evaluate", arguments, out)
    if command == "train":
        (place / "r.toml").write_text(RECIPE)
        sets = ["--train-annotations", annotations, "--train-images", images]
        sets += ["--val-annotations", annotations, "--val-images", images]
        arguments = ["--recipe", str(place / "r.toml"), *sets, "--out", str(out)]
        go_on = lambda out: ["--resume"] if (out / "last.pth").exists() else []  # noqa: E731
        return Job("condinst_deploy.commands", "train", arguments, out, go_on)
    if command == "export":
        arguments = ["--weights", str(checkpoint), "--out", str(out / "m.onnx")]
        return Job("condinst_export.commands", "export", arguments, out)
    arguments = ["--onnx", str(model), "--flavour", "rtx", "--sm", "86", "--out", str(out / "m.engine")]
    return Job("condinst_engines.commands", "build_engine", arguments, out)


def stop_and_go_on(job: Job, numbers: Sequence[signal.Signals], seed: int) -> None:
    """Stop the job once by each signal, at random moments of its run; then it has to end well."""
    seconds, _ = job.run()
    statuses = set()
    for i, (number, moment) in enumerate(zip(numbers, moments(seed, len(numbers), seconds), strict=True)):
        if i % 3 == 0 and job.out.exists():  # a run that was stopped early has not made it
            shutil.rmtree(job.out)  # a new run, and then some into what it left
        statuses.add(stopped_at(job, number, moment))
    assert statuses - {0}  # otherwise nothing was stopped
    if (job.out / "model.pth").exists() and job.name == "train":
        shutil.rmtree(job.out)
    job.run()
    assert leftovers(job) == []


@pytest.mark.parametrize("command", ["predict", "evaluate"])
def test_a_command_is_stopped_and_goes_on(command: str, place: Path, slim_checkpoint: Path) -> None:
    stop_and_go_on(job_of(command, place, slim_checkpoint, slim_checkpoint), SIGNALS, seed=1)


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("command", ["predict", "evaluate", "train", "export", "build_engine"])
def test_a_command_is_stopped_twenty_times(
    command: str, number: signal.Signals, place: Path, slim_onnx: Path, slim_checkpoint: Path
) -> None:
    stop_and_go_on(job_of(command, place, slim_onnx, slim_checkpoint), [number] * 20, seed=7)
