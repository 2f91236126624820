"""Small inputs for batch runs, a model that is quick on them, and what is checked of every run."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image

from condinst_deploy.contract import Preprocessing
from condinst_deploy.model.checkpoints import save_model
from condinst_deploy.serving.batch.batch_driver import Plan, planned, run_here
from condinst_deploy.serving.batch.batch_options import BatchOptions, DetectionOptions
from condinst_deploy.serving.batch.reporting import Event
from tests.support.models import TINY, manifest_of, noise_image, seeded_model

SMALL = replace(TINY, preprocessing=Preprocessing(short_side=64, long_side=128))
"""The smallest model, that finds something in each of the images."""

COMMAND = (sys.executable, "-c", "from condinst_deploy.cli.batch import main; main()")


def save_small_model(path: Path) -> Path:
    save_model(path, seeded_model(SMALL, seed=1), manifest_of(SMALL))
    return path


def write_images(folder: Path, count: int, damaged: Sequence[int] = (), side: int = 32) -> list[Path]:
    """Images `00000.jpg`, `00001.jpg`, ...; those of `damaged` are no images."""
    folder.mkdir(parents=True, exist_ok=True)
    variants = [_encoded(folder / f"variant{seed}.jpg", seed, side) for seed in range(min(count, 8))]
    paths = [folder / f"{i:05}.jpg" for i in range(count)]
    for i, path in enumerate(paths):
        path.write_bytes(variants[i % 8][:40] if i in damaged else variants[i % 8])
    return paths


def _encoded(path: Path, seed: int, side: int) -> bytes:
    Image.fromarray(noise_image(seed, side, side)).save(path, quality=90)
    content = path.read_bytes()
    path.unlink()
    return content


def options_of(source: Path | str, model: Path, out: Path | str, **changes: Any) -> BatchOptions:
    detection = DetectionOptions(device="cpu", max_detections=changes.pop("max_detections", 5))
    return BatchOptions(str(source), model, str(out), detection, **{"shard_size": 4, **changes})


def run_in_process(options: BatchOptions) -> tuple[Plan, list[Event]]:
    events: list[Event] = []
    with planned(options) as plan:
        run_here(plan, events.append)
    return plan, events


def batch_command(*arguments: str | Path, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [*COMMAND, *map(str, arguments)],
        cwd=cwd,
        env=command_environment(**environment),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done


def command_environment(**changes: str) -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1"} | changes


def events_of(folder: Path) -> list[dict[str, Any]]:
    """The events that were written so far; a last line may not be whole."""
    path = folder / "events.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def positions_and_paths(folder: Path) -> list[tuple[int, str]]:
    """Of all rows of all Parquet parts, in the order of the parts."""
    from condinst_deploy.serving.batch.output_rows import read_part

    return [(row.position, row.path) for part in sorted(folder.glob("part-*")) for row in read_part(str(part))]


def assert_each_image_once(folder: Path, paths: Sequence[Path]) -> None:
    assert positions_and_paths(folder) == list(enumerate(map(str, paths)))
    assert not list(folder.glob(".part-*"))


def parts(folder: Path) -> list[str]:
    """Return the names of the parts in a folder."""
    return sorted(path.name for path in folder.glob("part-*"))


def coco_part(folder: Path, index: int) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / f"part-{index:08d}.json").read_text())
    return content
