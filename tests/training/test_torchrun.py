"""torchrun starts the processes of a run; its store listens on all interfaces, so it gets a network of its own."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from condinst_deploy.data.shapes_dataset import generate_shapes
from condinst_deploy.training.history import is_evaluation, read_history
from condinst_deploy.training.recipe import ScheduleSettings
from condinst_deploy.training.recipe_file import write_recipe
from tests.support.own_network import isolation
from tests.support.recipes import tiny_recipe

SECONDS = 240.0
ITERATIONS = 150

TRAIN = "from condinst_deploy.cli.train import main; main()"


@pytest.fixture
def started(tmp_path: Path) -> Iterator[list[subprocess.Popen[str]]]:
    processes: list[subprocess.Popen[str]] = []
    yield processes
    for process in processes:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def launched(folder: Path, *options: str) -> subprocess.Popen[str]:
    torchrun = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-addr", "127.0.0.1", "--no-python"]
    train = [sys.executable, "-c", TRAIN, "--recipe", "recipe.toml", "--out", "run", "--json", *options]
    return subprocess.Popen(
        [*isolation(), sys.executable, *torchrun, *train],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.mark.skipif(not isolation(), reason="unshare --net is not allowed here")
def test_torchrun_trains_stops_at_a_signal_and_goes_on(tmp_path: Path, started: list[subprocess.Popen[str]]) -> None:
    generate_shapes(tmp_path, "train", 8)
    generate_shapes(tmp_path, "val", 4)
    recipe = tiny_recipe(tmp_path / "train.json", tmp_path / "val.json", 64)
    schedule = ScheduleSettings(iterations=ITERATIONS, batch_size=4, warmup_iterations=2, steps=(5,))
    write_recipe(replace(recipe, schedule=schedule, log_every=1, evaluate_every=0), tmp_path / "recipe.toml")
    started.append(launched(tmp_path))
    stderr = started[0].stderr
    assert stderr is not None
    said = []
    for line in stderr:
        said.append(line)
        if line.startswith("iteration 2 of"):
            break
    else:
        pytest.fail("".join(said))
    started[0].send_signal(signal.SIGTERM)  # as a scheduler does; torchrun passes it on
    _, rest = started[0].communicate(timeout=SECONDS)
    assert started[0].returncode != 0
    done = [record["iteration"] for record in read_history(tmp_path / "run" / "history.jsonl")]
    assert done == list(range(1, len(done) + 1)), rest
    assert len(done) < ITERATIONS
    assert (tmp_path / "run" / "last.pth").is_file(), rest
    started.append(launched(tmp_path, "--resume"))
    stdout, stderr_text = started[1].communicate(timeout=SECONDS)
    assert started[1].returncode == 0, stderr_text
    assert json.loads(stdout)["iteration"] == ITERATIONS  # the first process alone prints
    records = read_history(tmp_path / "run" / "history.jsonl")
    assert [record["iteration"] for record in records if not is_evaluation(record)] == list(range(1, ITERATIONS + 1))
    assert (tmp_path / "run" / "model.pth").is_file()
