"""NVIDIA's bindings themselves, above a driver that a C compiler makes: every call is converted as on a GPU.

The strict double takes the place of `CudaDriver`, so it does not see a value that the bindings refuse, or a kernel's
argument of the wrong width. Here both are real.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from condinst_deploy.kernels.shipped import shipped_kernel

ROOT = Path(__file__).parents[3]
SOURCE = ROOT / "tests" / "support" / "fake_libcuda.c"


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    compiler = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
    if compiler is None or sys.platform != "linux":
        pytest.skip("there is no C compiler for Linux here, which makes a driver without a GPU")
    folder = tmp_path_factory.mktemp("driver")
    build = [compiler, "-Wall", "-Wextra", "-Werror", "-O1", "-shared", "-fPIC", "-o", str(folder / "libcuda.so.1")]
    made = subprocess.run([*build, str(SOURCE), "-ldl"], capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    paths = [str(ROOT), str(ROOT / "export"), str(ROOT / "engines"), os.environ.get("PYTHONPATH", "")]
    libraries = os.pathsep.join(filter(None, (str(folder), os.environ.get("LD_LIBRARY_PATH"))))
    environment = os.environ | {"LD_LIBRARY_PATH": libraries, "PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, "-m", "tests.support.gpu_on_fake"]
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    results: dict[str, Any] = json.loads(run.stdout)
    return results


def test_the_gpu_is_asked_for_its_name_and_capability(found: dict[str, Any]) -> None:
    assert found["name"] == "a GPU that is none"
    assert found["capability"] == [9, 0]


def test_images_that_cross_and_are_resized_are_the_hosts(found: dict[str, Any]) -> None:
    assert found["resized"] == {"equal": True}


def test_masks_whose_runs_cross_are_the_hosts(found: dict[str, Any]) -> None:
    """The scenario compares them itself, byte for byte."""
    assert found["masks"] == {"images": 8}


def test_every_kernel_gets_its_arguments_threads_and_shared_memory(found: dict[str, Any]) -> None:
    names = {name for name, *_ in found["launches"]}
    assert names >= {"resize_kernel", "mask_extents_float16", "mask_extents_float32", "offsets", "changes_written"}
    for name, threads, shared in found["launches"]:
        kernel = shipped_kernel(name)
        assert (threads, shared) == (kernel.threads, kernel.shared_bytes)
    assert found["errors"] == []


def test_work_is_captured_or_given_up(found: dict[str, Any]) -> None:
    assert found["graphs"] == {"refused": True, "raised": True}


def test_an_event_says_whether_its_work_is_over(found: dict[str, Any]) -> None:
    assert found["events"] == {"early": False, "late": True}


def test_refusals_are_the_drivers(found: dict[str, Any]) -> None:
    refusals = found["refusals"]
    assert refusals["memory"].startswith("there are no 33554432 MiB of memory left")
    assert refusals["context"] == "cuMemAlloc fails with CUDA_ERROR_INVALID_CONTEXT"
    assert refusals["index"].startswith("device cuda:7 was asked for; the driver sees 1 GPU.")


def test_where_the_driver_makes_nothing_of_a_kind_work_goes_on_or_an_error_names_the_call(
    found: dict[str, Any],
) -> None:
    short = found["short"]
    assert short["pinned"] == {"equal": True, "images": 8}
    (warning,) = short["warning"]
    assert "no more pinned memory" in warning
    assert short["graphs"]
    assert short["executables"]
    assert short["events"] == "cuEventCreate fails with CUDA_ERROR_OUT_OF_MEMORY"
    assert short["streams"] == "cuStreamCreateWithPriority fails with CUDA_ERROR_OUT_OF_MEMORY"
    assert short["modules"] == "cuModuleLoadData fails with CUDA_ERROR_OUT_OF_MEMORY"


def test_everything_goes_back_to_the_driver(found: dict[str, Any]) -> None:
    """One side stream is kept for the next batch, and each kernel that was launched."""
    alive = found["alive"]
    assert alive.pop("modules") == len({name for name, *_ in found["launches"]})
    assert alive == {"memory": 0, "pinned": 0, "streams": 1, "events": 0, "graphs": 0, "executables": 0}


def test_an_error_that_stays_ends_the_gpu(found: dict[str, Any]) -> None:
    first, later = found["broken"]["messages"]
    assert "fails with CUDA_ERROR_ILLEGAL_ADDRESS" in first
    assert later.startswith("the GPU failed earlier in this process (CUDA_ERROR_ILLEGAL_ADDRESS)")
    assert found["broken"]["failure"] == "CUDA_ERROR_ILLEGAL_ADDRESS"
