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

from tests.support.exports import save_r50_checkpoint
from tests.support.models import SlimFiles, adelaidet_state
from tests.support.shared_files import exported_slim_model, made_once, slim_model

LONGEST_FILES = (
    "engines/test_plan_builder.py",
    "engines/test_full_size_builds.py",
    "training/test_ranks.py",
    "model/test_golden_adelaidet_losses.py",
    "engines/test_golden_precision.py",
    "engines/test_quantized_builds.py",
    "engines/test_quantization.py",
    "export/test_golden_adelaidet.py",
    "engines/test_rewrites.py",
    "export/test_verify.py",
    "cli/test_export.py",
    "test_readme.py",
    "cases/test_cases.py",
    "kernels/test_mask_head.py",
    "cli/test_kills.py",
)
"""Files that take more than about half a minute, longest first: one that started last would run alone."""


def pytest_configure() -> None:
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as shells leave it for background jobs
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--run-slow", action="store_true", help="run the tests marked slow, too")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: started_at(item.path.relative_to(Path(__file__).parent).as_posix()))
    reasons = _reasons_to_skip(config)
    for item in items:
        for marker, reason in reasons.items():
            if item.get_closest_marker(marker) is not None:
                item.add_marker(pytest.mark.skip(reason=reason))


def started_at(name: str) -> int:
    """Return the position of a test file among the longest; all others come after them, in the order of collection."""
    return LONGEST_FILES.index(name) if name in LONGEST_FILES else len(LONGEST_FILES)


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


@pytest.fixture(autouse=True)
def _signals_are_handled_as_before() -> Iterator[None]:
    """A command that runs in this process changes its handlers; a later test's Ctrl-C would end the process."""
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    yield
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


@pytest.fixture
def ctrl_c_interrupts() -> Iterator[None]:
    """A shell starts what runs in the background with Ctrl-C ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


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
    return slim_model(tmp_path_factory, "mmdet")


@pytest.fixture(scope="session")
def slim_onnx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The slim model exported with dynamic shapes."""
    return exported_slim_model(tmp_path_factory, "mmdet")


@pytest.fixture(scope="session")
def slim_files(tmp_path_factory: pytest.TempPathFactory) -> SlimFiles:
    """Checkpoint and exported file of a kind of `SLIM_KINDS`, made when they are asked for."""
    return lambda kind: (slim_model(tmp_path_factory, kind), exported_slim_model(tmp_path_factory, kind))


@pytest.fixture(scope="session")
def adelaidet_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """AdelaiDet's MS_R_50_1x with the golden outputs' weights, saved as AdelaiDet saves."""
    name = "CondInst_MS_R_50_1x.pth"

    def save(folder: Path) -> None:
        torch.save({"model": adelaidet_state("MS_R_50"), "iteration": 89_999}, folder / name)

    return made_once(tmp_path_factory, "adelaidet", save) / name


@pytest.fixture(scope="session")
def mmdet_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """mmdetection's R-50 with the golden outputs' weights, saved as mmdetection saves."""
    name = "condinst_r50.pth"
    return made_once(tmp_path_factory, "mmdet", lambda folder: save_r50_checkpoint(folder / name)) / name


@pytest.fixture(scope="session")
def exported_r50(mmdet_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Summary of `condinst-export --weights condinst_r50.pth --json`; `path` is the file that it wrote."""

    def export(folder: Path) -> None:
        command = [str(Path(sys.executable).parent / "condinst-export"), "--weights", str(mmdet_checkpoint), "--json"]
        run = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        assert run.returncode == 0, run.stderr
        (folder / "summary.json").write_text(run.stdout)

    folder = made_once(tmp_path_factory, "r50", export)
    summary: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    assert Path(summary["path"]) == folder / "export" / "build" / "condinst_r50.onnx"
    return summary
