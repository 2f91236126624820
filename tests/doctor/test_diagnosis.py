"""Findings become checks with advice; what is broken decides the exit status."""

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from condinst_deploy.contract.engine_manifest import write_engine
from condinst_deploy.doctor import diagnose
from condinst_deploy.doctor.gpu_checks import driver_check, driver_check_of
from condinst_deploy.doctor.libraries import (
    nvjpeg_check,
    onnxruntime_check,
    runtimes_check,
    tensorrt_check,
    torch_check,
    triton_check,
)
from condinst_deploy.doctor.model_file import file_checks, run_check
from condinst_deploy.doctor.system import available_memory, system_checks
from condinst_deploy.errors import ArtifactError, ConfigError
from tests.support.engines import MANIFEST, PLAN

H100 = "NVIDIA H100 80GB HBM3, 9.0, 81559, 80000, 580.65.06\n"
GPU = {"name": "H100", "capability": "90", "free_bytes": 1, "total_bytes": 2}
TORCH = {"version": "2.14.0", "cuda": "13.0", "gpus": [GPU], "architectures": ["sm_80", "sm_90"]}
PROVIDERS = {"CPUExecutionProvider": True, "CUDAExecutionProvider": True}
ANSWERS: dict[str, dict[str, Any]] = {
    "torch": TORCH,
    "onnxruntime": {"version": "1.31.1", "providers": PROVIDERS},
    "tensorrt": {"version": MANIFEST.library_version, "builder": True, "runtime": True},
    "triton": {"version": "3.8.0", "compiles": True, "cache": "/cache", "cache_writable": True},
    "nvjpeg": {"version": "0.29", "decodes": True},
    "model": {"backend": "x", "device": "cuda:0", "family": "mmdet", "classes": 80, "precision": "float16"},
}


def answers(name: str, argument: str = "") -> dict[str, Any]:
    return ANSWERS[name]


@pytest.fixture
def smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Puts an `nvidia-smi` first on the PATH that runs the given shell lines."""

    def install(lines: str) -> None:
        tool = tmp_path / "bin" / "nvidia-smi"
        tool.parent.mkdir(exist_ok=True)
        tool.write_text(f"#!/bin/sh\n{lines}\n")
        tool.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tool.parent}:/usr/bin:/bin")

    return install


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    path = tmp_path / "model.engine"
    write_engine(path, PLAN, MANIFEST)
    return path


def test_the_drivers_gpus_are_listed(smi: Callable[[str], None]) -> None:
    smi(f"printf '{H100.strip()}\\n'")
    check = driver_check()
    assert check.status == "ok"
    assert check.details["gpus"][0]["compute_cap"] == "9.0"
    assert check.found.startswith("580.65.06; NVIDIA H100 80GB HBM3 (9.0, 80000 of 81559 MiB free)")


def test_a_driver_that_fails_says_what_it_said(smi: Callable[[str], None]) -> None:
    smi("echo 'Failed to initialize NVML: Driver/library version mismatch'; exit 18")
    check = driver_check()
    assert check.status == "failed"
    assert "Driver/library version mismatch" in check.found


def test_no_driver_is_no_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert driver_check(tmp_path).status == "absent"
    (tmp_path / "proc/driver/nvidia").mkdir(parents=True)
    (tmp_path / "proc/driver/nvidia/version").touch()
    assert driver_check(tmp_path).status == "warning"  # loaded, without its tools


def test_an_old_driver_and_an_empty_list_are_told_apart() -> None:
    assert driver_check_of(H100.replace("580.65.06", "535.1")).status == "warning"
    assert driver_check_of("\n").status == "failed"
    assert driver_check_of("a line, of another form").status == "failed"


def test_pytorch_beside_the_driver() -> None:
    assert torch_check(TORCH, driver_sees_gpus=True).status == "ok"
    assert torch_check(TORCH | {"gpus": []}, driver_sees_gpus=True).status == "warning"
    assert torch_check(TORCH | {"gpus": []}, driver_sees_gpus=False).status == "ok"


@pytest.mark.parametrize(
    ("capability", "architectures", "status"),
    [
        ("90", ["sm_80", "sm_90"], "ok"),
        ("86", ["sm_80", "sm_90"], "ok"),  # binary code runs on later GPUs of its generation
        ("75", ["sm_80", "sm_90"], "warning"),
        ("120", ["sm_80", "sm_90", "sm_100"], "warning"),
        ("120", ["sm_90", "compute_90"], "ok"),  # PTX runs on every later GPU
        ("89", ["compute_90"], "warning"),
        ("90", ["sm_90a"], "ok"),
    ],
)
def test_a_build_without_kernels_for_the_gpu_is_a_warning(
    capability: str, architectures: list[str], status: str
) -> None:
    answer = TORCH | {"gpus": [GPU | {"capability": capability}], "architectures": architectures}
    assert torch_check(answer, driver_sees_gpus=True).status == status


def test_a_provider_counts_only_if_it_loads() -> None:
    cuda_fails = {"version": "1.31.1", "providers": PROVIDERS | {"CUDAExecutionProvider": False}}
    check = onnxruntime_check(cuda_fails, driver_sees_gpus=True)
    assert check.status == "warning"
    assert check.found == "1.31.1 runs on CPU; its CUDA provider does not load"
    without = onnxruntime_check(cuda_fails, driver_sees_gpus=False)
    assert (without.status, without.found) == ("ok", "1.31.1 runs on CPU; CUDA needs a GPU, and there is none")
    # a provider that this toolkit never uses is no finding
    unused = {"version": "1.31.1", "providers": PROVIDERS | {"TensorrtExecutionProvider": False}}
    assert "not" not in onnxruntime_check(unused, driver_sees_gpus=True).found
    broken = {"version": "1.31.1", "providers": {"CPUExecutionProvider": False}}
    assert onnxruntime_check(broken, driver_sees_gpus=False).status == "failed"


def test_two_packages_of_onnx_runtime_are_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("condinst_deploy.doctor.libraries.version_of", lambda name: "1.31.1")
    assert runtimes_check().status == "failed"
    monkeypatch.setattr("condinst_deploy.doctor.libraries.version_of", lambda name: None)
    assert runtimes_check().status == "absent"


def test_a_builder_without_a_runtime_is_still_of_use() -> None:
    assert tensorrt_check("rtx", {"version": "1", "builder": True, "runtime": False}).status == "ok"
    assert tensorrt_check("tensorrt", {"version": "1", "builder": False, "runtime": False}).status == "warning"


@pytest.mark.parametrize("check", [triton_check, nvjpeg_check])
def test_missing_and_failing_libraries_are_told_apart(check: Callable[[dict[str, Any]], Any]) -> None:
    assert check({"missing": "No module named 'x'"}).status == "absent"
    failed = check({"failed": "RuntimeError: no device"})
    assert (failed.status, failed.found) == ("failed", "fails: RuntimeError: no device")
    cache = {"cache": "/cache", "cache_writable": True}
    assert check({"version": "1", "compiles": False, "decodes": False} | cache).status == "failed"
    assert check({"version": "1", "compiles": True, "decodes": True} | cache).status == "ok"


def test_a_cache_of_triton_that_cannot_be_written_is_named_with_the_setting() -> None:
    check = triton_check({"version": "1", "compiles": True, "cache": "/ro/.triton/cache", "cache_writable": False})
    assert check.status == "warning"
    assert "/ro/.triton/cache" in check.found
    assert "TRITON_CACHE_DIR" in check.advice


def test_memory_is_what_the_control_group_leaves(tmp_path: Path) -> None:
    assert available_memory(tmp_path) is None
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal: 9000 kB\nMemAvailable:    8000 kB\n")
    assert available_memory(tmp_path) == 8_192_000
    group = tmp_path / "sys/fs/cgroup"
    group.mkdir(parents=True)
    (group / "memory.max").write_text("5000\n")
    (group / "memory.current").write_text("4000\n")
    assert available_memory(tmp_path) == 1000
    (group / "memory.max").write_text("max\n")
    assert available_memory(tmp_path) == 8_192_000


def test_little_memory_and_a_missing_folder_are_findings(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemAvailable:    8000 kB\n")
    found = {check.name: check.status for check in system_checks(tmp_path / "nowhere", tmp_path)}
    assert found["memory"] == "warning"
    assert found["disk"] == "failed"


def test_an_engine_that_fits_the_machine_is_run(engine: Path) -> None:
    checks = file_checks(engine, answers, ["86"])
    assert [check.status for check in checks] == ["ok"] * 3
    assert checks[-1].found == "yes, by the backend x on cuda:0 (mmdet, 80 classes, float16)"


@pytest.mark.parametrize(
    ("capabilities", "library", "reason"),
    [
        ([], {}, "this machine has no usable NVIDIA GPU"),
        (["90"], {}, "for GPUs of compute capability 86, 120 and this one has 90"),
        (["86"], {"version": "9.9"}, "was built by version 1.7.1.116 and 9.9 is installed"),
    ],
)
def test_an_engine_that_does_not_fit_says_why_and_is_not_loaded(
    capabilities: list[str], library: dict[str, str], reason: str, engine: Path
) -> None:
    def probe(name: str, argument: str = "") -> dict[str, Any]:
        assert name == "tensorrt"
        return ANSWERS["tensorrt"] | library

    check = file_checks(engine, probe, capabilities)[-1]
    assert check.status == "failed"
    assert reason in check.found


def test_one_gpu_of_several_is_enough(engine: Path) -> None:
    assert file_checks(engine, answers, ["75", "120"])[-1].status == "ok"


def test_an_engine_without_its_library_or_its_manifest_says_so(engine: Path) -> None:
    missing = file_checks(engine, lambda *_: {"missing": "No module named 'tensorrt_rtx'"}, ["86"])
    assert "No module named 'tensorrt_rtx'" in missing[-1].found
    engine.with_name("model.engine.json").unlink()
    assert "has no manifest" in file_checks(engine, answers, ["86"])[-1].found


def test_a_file_larger_than_memory_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"x" * 100)
    monkeypatch.setattr("condinst_deploy.doctor.model_file.available_memory", lambda: 399)
    assert [c.status for c in file_checks(path, answers, []) if c.name == "memory for it"] == ["warning"]
    monkeypatch.setattr("condinst_deploy.doctor.model_file.available_memory", lambda: 400)
    assert not [c for c in file_checks(path, answers, []) if c.name == "memory for it"]


def test_a_file_of_no_known_kind_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "model.bin").touch()
    with pytest.raises(ConfigError, match=r"expected a model, a file ending in \.pth"):
        file_checks(tmp_path / "model.bin", answers, [])
    with pytest.raises(ArtifactError, match="no model at"):
        file_checks(tmp_path / "model.onnx", answers, [])


def test_a_file_is_looked_for_before_the_machine_is_examined(tmp_path: Path) -> None:
    def probe(name: str, argument: str = "") -> dict[str, Any]:
        raise AssertionError(name)

    with pytest.raises(ArtifactError, match="no model at"):
        diagnose(tmp_path / "model.onnx", probe)


def test_why_a_model_does_not_run_is_passed_on() -> None:
    assert run_check({"error": "x.onnx has no manifest"}).found == "x.onnx has no manifest"
    assert run_check({"failed": "its process ended with status -9"}).status == "failed"


def test_a_machine_without_a_gpu_is_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    without: dict[str, dict[str, Any]] = {"torch": TORCH | {"gpus": []}, "tensorrt": {"missing": "x"}}
    found = diagnose(probe=lambda name, *_: (ANSWERS | without)[name])
    assert found.ok
    assert json.loads(json.dumps(found.to_dict()))["ok"] is True
    assert "nvJPEG" not in [check.name for check in found.machine]


def test_the_file_decides_where_there_is_one(smi: Callable[[str], None], engine: Path) -> None:
    smi(f"printf '{H100.strip()}\\n'")
    assert not diagnose(engine, answers).ok  # the engine is for other GPUs than an H100
    server = replace(MANIFEST, targets=("90",), plan_sha256=hashlib.sha256(PLAN).hexdigest())
    write_engine(engine, PLAN, server)
    broken_elsewhere: dict[str, dict[str, Any]] = {"triton": {"failed": "x"}}
    assert diagnose(engine, lambda name, *_: (ANSWERS | broken_elsewhere)[name]).ok


def doctor(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from condinst_deploy.cli.doctor import main; main()", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


def test_the_command_says_that_a_model_runs_here(slim_onnx: Path, tmp_path: Path) -> None:
    done = doctor(slim_onnx, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["file"][-1]["name"] == "runs here"
    assert found["file"][-1]["status"] == "ok"
    assert {check["name"] for check in found["machine"]} >= {"Python", "PyTorch", "ONNX Runtime", "TensorRT for RTX"}


def test_a_file_that_is_missing_or_broken_is_one_line_and_a_failure(tmp_path: Path) -> None:
    done = doctor("nope.onnx", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: no model at nope.onnx")
    (tmp_path / "[red]broken.pth").write_bytes(b"no checkpoint")
    broken = doctor("[red]broken.pth", cwd=tmp_path)
    assert broken.returncode == 1
    assert "[red]broken.pth cannot be read as a PyTorch checkpoint" in broken.stdout
    assert "Traceback" not in broken.stdout + broken.stderr
