"""Checks of the libraries that backends, kernels and builders use."""

from collections.abc import Callable, Mapping
from typing import Any

from condinst_deploy.contract.engine_manifest import MODULES, Builder, install_hint
from condinst_deploy.doctor.checks import Check
from condinst_deploy.shown_text import counted
from condinst_deploy.support.extras import install_choice, install_command
from condinst_deploy.support.versions import version_of

Answer = Mapping[str, Any]
Probe = Callable[..., Answer]

NAMES: dict[Builder, str] = {"tensorrt": "TensorRT", "rtx": "TensorRT for RTX"}


def runtimes_check() -> Check:
    """The two packages of ONNX Runtime share one folder; if both are installed, it is undefined which one runs."""
    found = {name: version for name in ("onnxruntime", "onnxruntime-gpu") if (version := version_of(name))}
    text = ", ".join(f"{name} {version}" for name, version in found.items()) or "none"
    if len(found) == 2:
        advice = "pip uninstall both, then install one: onnxruntime-gpu for a GPU, onnxruntime for a CPU"
        return Check("ONNX Runtime packages", "failed", f"{text} overwrite each other's files", advice, found)
    return Check("ONNX Runtime packages", "ok" if found else "absent", text, details=found)


def torch_check(answer: Answer, driver_sees_gpus: bool) -> Check:
    """PyTorch, beside what the driver sees."""
    if broken := _broken("PyTorch", answer, f"{install_command('torch')}; checkpoints and GPU masks need it"):
        return broken
    gpus = answer["gpus"]
    found = f"{answer['version']}, CUDA {answer['cuda'] or 'not built in'}, {counted(len(gpus), 'usable GPU')}"
    if driver_sees_gpus and not gpus:
        advice = "the driver sees a GPU and PyTorch does not: install a CUDA build that this driver supports"
        return Check("PyTorch", "warning", found, advice, answer)
    unsupported = [gpu["name"] for gpu in gpus if not _has_kernels(gpu["capability"], answer.get("architectures", []))]
    if unsupported:
        advice = f"this build has no kernels for {', '.join(unsupported)}; install another build of PyTorch"
        return Check("PyTorch", "warning", found, advice, answer)
    return Check("PyTorch", "ok", found, details=answer)


def _has_kernels(capability: str, architectures: list[str]) -> bool:
    """Binary kernels run on their own generation; PTX (`compute_`) runs on it and on later ones."""
    major = capability[:-1]
    for name in architectures:
        kind, _, number = name.partition("_")
        digits = "".join(c for c in number if c.isdecimal())
        if kind == "sm" and digits[:-1] == major and int(digits) <= int(capability):
            return True
        if kind == "compute" and digits and int(digits) <= int(capability):
            return True
    return not architectures


def onnxruntime_check(answer: Answer, driver_sees_gpus: bool) -> Check:
    """ONNX Runtime's providers that really run, not those that it lists."""
    if broken := _broken("ONNX Runtime", answer, install_choice("cpu")):
        return broken
    loads: dict[str, bool] = answer["providers"]
    short = {name: name.removesuffix("ExecutionProvider") for name in loads}
    running = ", ".join(short[name] for name, works in loads.items() if works) or "nothing"
    found = f"{answer['version']} runs on {running}"  # of the others only CUDA's is ever used
    if loads.get("CUDAExecutionProvider") is False:
        found += "; its CUDA provider does not load" if driver_sees_gpus else "; CUDA needs a GPU, and there is none"
    if not loads.get("CPUExecutionProvider"):
        return Check("ONNX Runtime", "failed", found, f"reinstall it: {install_choice('cpu')}", answer)
    if driver_sees_gpus and not loads.get("CUDAExecutionProvider"):
        advice = f"for the GPU: {install_command('gpu')}, and the CUDA and cuDNN that it was built for"
        return Check("ONNX Runtime", "warning", found, advice, answer)
    return Check("ONNX Runtime", "ok", found, details=answer)


def tensorrt_check(builder: Builder, answer: Answer) -> Check:
    """One builder of TensorRT: it builds engines, runs engines, or both."""
    name = NAMES[builder]
    if broken := _broken(name, answer, f"{install_hint(builder)}; engines of this builder need it"):
        return broken
    abilities = {"builds engines": answer["builder"], "has a runtime": answer["runtime"]}
    can = ", ".join(text for text, there in abilities.items() if there) or "neither builds nor runs engines here"
    found = f"{answer['version']}: {can}"
    if not answer["builder"] and not answer["runtime"]:
        return Check(name, "warning", found, "it needs an NVIDIA GPU and its driver", answer)
    return Check(name, "ok", found, details=answer)


def triton_check(answer: Answer) -> Check:
    """Triton's compiler."""
    if broken := _broken("Triton", answer, "PyTorch's CUDA builds bring it; masks on a GPU are slower without"):
        return broken
    if not answer["compiles"]:
        return Check(
            "Triton", "failed", f"{answer['version']} does not compile our kernels", "reinstall triton", answer
        )
    if not answer["cache_writable"]:
        return Check(
            "Triton",
            "warning",
            f"{answer['version']} compiles our kernels, but its cache {answer['cache']} cannot be written",
            "set TRITON_CACHE_DIR to a folder that can be written; Triton keeps compiled kernels there",
            answer,
        )
    return Check("Triton", "ok", f"{answer['version']} compiles our kernels", details=answer)


def nvjpeg_check(answer: Answer) -> Check:
    """JPEG decoding on the GPU."""
    if broken := _broken("nvJPEG", answer, "`--pixels cuda` needs it; other options do not"):
        return broken
    if not answer["decodes"]:
        return Check("nvJPEG", "failed", "a decoded image has the wrong shape", "do not use --pixels cuda", answer)
    return Check("nvJPEG", "ok", f"torchvision {answer['version']} decodes on the GPU", details=answer)


def library_checks(probe: Probe, driver_sees_gpus: bool) -> list[Check]:
    """All of them; each probe runs in a separate process."""
    torch = torch_check(probe("torch"), driver_sees_gpus)
    checks = [
        torch,
        runtimes_check(),
        onnxruntime_check(probe("onnxruntime"), driver_sees_gpus),
        *(tensorrt_check(builder, probe("tensorrt", module)) for builder, module in MODULES.items()),
        triton_check(probe("triton")),
    ]
    if torch.details.get("gpus"):
        checks.append(nvjpeg_check(probe("nvjpeg")))
    return checks


def _broken(name: str, answer: Answer, advice: str) -> Check | None:
    """The check of a library that is not installed, or that fails; None if it answered."""
    if "missing" in answer:
        return Check(name, "absent", f"not installed ({answer['missing']})", advice, answer)
    if "failed" in answer:
        return Check(name, "failed", f"fails: {answer['failed']}", f"reinstall it. {advice}", answer)
    return None
