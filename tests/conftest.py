"""Options, skips and fixtures that several test files share."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

# idle threads sleep instead of spinning: on a machine that does other things, too, spinning costs tenfold
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # tests import ONNX Runtime themselves, too
if "PYTEST_XDIST_WORKER" in os.environ:
    # workers side by side: one core and one thread each
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[int(os.environ["PYTEST_XDIST_WORKER"].removeprefix("gw")) % len(cores)]})
    os.environ["OMP_NUM_THREADS"] = "1"

import pytest
import torch

from condinst_deploy.model.checkpoints import save_model
from tests.support.exports import exported
from tests.support.models import SLIM, SLIM_KINDS, SlimFiles, adelaidet_state, manifest_of, mmdet_state, seeded_model


def pytest_configure() -> None:
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as shells leave it for background jobs
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--run-slow", action="store_true", help="run the tests marked slow, too")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    reasons = _reasons_to_skip(config)
    for item in items:
        for marker, reason in reasons.items():
            if item.get_closest_marker(marker) is not None:
                item.add_marker(pytest.mark.skip(reason=reason))


def _reasons_to_skip(config: pytest.Config) -> dict[str, str]:
    reasons = {}
    if not config.getoption("--run-slow"):
        reasons["slow"] = "slow: run with --run-slow (make test-slow)"
    if not torch.cuda.is_available():
        reasons["gpu"] = "gpu: PyTorch sees no NVIDIA GPU on this machine"
    if find_spec("ray") is None:
        reasons["ray"] = "ray: Ray is not installed here (make test-ray runs these tests)"
    try:
        import tensorrt  # noqa: F401
    except ImportError:
        reasons["tensorrt"] = "tensorrt: full TensorRT is not installed (pip install '.[tensorrt]')"
    return reasons


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """On a busy machine a small network is many times slower with threads that wait for each other."""
    yield from _threads(1)


@pytest.fixture(scope="module")
def two_threads() -> Iterator[None]:
    """As many as the references had: the order of float32 sums depends on it."""
    yield from _threads(2)


def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def slim_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A slim seeded model of three classes in the toolkit's own format."""
    path = tmp_path_factory.mktemp("slim") / "slim.pth"
    save_model(path, seeded_model(), manifest_of(SLIM))
    return path


@pytest.fixture(scope="session")
def slim_onnx(slim_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The slim model exported with dynamic shapes."""
    return exported(slim_checkpoint, tmp_path_factory.mktemp("slim_onnx") / "slim.onnx")


@pytest.fixture(scope="session")
def slim_files(slim_checkpoint: Path, slim_onnx: Path, tmp_path_factory: pytest.TempPathFactory) -> SlimFiles:
    """Checkpoint and exported file of a kind of `SLIM_KINDS`, made when they are asked for."""
    made = {"mmdet": (slim_checkpoint, slim_onnx)}

    def files_of(kind: str) -> tuple[Path, Path]:
        if kind not in made:
            config, checkpoint = SLIM_KINDS[kind], tmp_path_factory.mktemp("slim") / "slim.pth"
            save_model(checkpoint, seeded_model(config), manifest_of(config))
            made[kind] = checkpoint, exported(checkpoint, checkpoint.with_suffix(".onnx"))
        return made[kind]

    return files_of


@pytest.fixture(scope="session")
def adelaidet_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """AdelaiDet's MS_R_50_1x with the golden outputs' weights, saved as AdelaiDet saves."""
    path = tmp_path_factory.mktemp("adelaidet") / "CondInst_MS_R_50_1x.pth"
    torch.save({"model": adelaidet_state("MS_R_50"), "iteration": 89_999}, path)
    return path


@pytest.fixture(scope="session")
def mmdet_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """mmdetection's R-50 with the golden outputs' weights, saved as mmdetection saves."""
    path = tmp_path_factory.mktemp("mmdet") / "condinst_r50.pth"
    torch.save({"meta": {"epoch": 12}, "state_dict": mmdet_state()}, path)
    return path


@pytest.fixture(scope="session")
def exported_r50(mmdet_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What `condinst-export --weights condinst_r50.pth --json` says; `path` is the file it wrote."""
    folder = tmp_path_factory.mktemp("r50")
    command = [str(Path(sys.executable).parent / "condinst-export"), "--weights", str(mmdet_checkpoint), "--json"]
    run = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    summary: dict[str, Any] = json.loads(run.stdout)
    assert Path(summary["path"]) == folder / "export" / "build" / "condinst_r50.onnx"
    return summary
