"""Checks of one model file: what it needs, and whether this machine can run it."""

from collections.abc import Sequence
from pathlib import Path

from condinst_deploy.contract.artifacts import CHECKPOINT, ENGINE, ONNX, check_there, model_kind
from condinst_deploy.contract.engine_manifest import MODULES, EngineManifest, read_engine
from condinst_deploy.doctor.checks import Check
from condinst_deploy.doctor.libraries import Answer, Probe
from condinst_deploy.doctor.system import available_memory
from condinst_deploy.errors import ArtifactError
from condinst_deploy.shown_text import counted

NEEDS = {
    CHECKPOINT: "PyTorch; a GPU is optional",
    ONNX: "ONNX Runtime; a GPU is optional",
    ENGINE: "an NVIDIA GPU and the TensorRT that built it",
}

WEIGHTS_IN_MEMORY = 4
"""Bytes of host memory that loading takes for every byte of the file: the file, its weights, a copy being packed."""


def check_model_file(path: Path) -> str:
    """Return the kind of a model file.

    Raises:
        ArtifactError, CheckpointError: the file is not there.
        ConfigError: it is of no known kind.
    """
    kind = model_kind(path)
    check_there(path)
    return kind


def file_checks(path: Path, probe: Probe, capabilities: Sequence[str]) -> list[Check]:
    """Check one model file.

    Args:
        path: a checkpoint, an `.onnx` file or an engine.
        probe: runs the probe `model`, which loads the file as `Predictor` does.
        capabilities: compute capabilities of the GPUs in this machine, for example `90`.

    Raises:
        ArtifactError, CheckpointError: the file is not there.
        ConfigError: it is of no known kind.
    """
    kind = check_model_file(path)
    size = path.stat().st_size
    checks = [Check("needs", "ok", f"{NEEDS[kind]} ({size / 1e6:.1f} MB)", details={"kind": kind, "bytes": size})]
    checks += _memory(size)
    if kind == ENGINE:
        engine = engine_check(path, probe, capabilities)
        checks.append(engine)
        if engine.status == "failed":
            return checks  # loading would fail for the reason that is given already
    return [*checks, run_check(probe("model", str(path.absolute())))]


def _memory(size: int) -> list[Check]:
    free, needed = available_memory(), WEIGHTS_IN_MEMORY * size
    if free is None or needed <= free:
        return []
    found = f"loading takes about {needed / 1e9:.1f} GB and {free / 1e9:.1f} GB are available"
    return [Check("memory for it", "warning", found, "free some memory", {"needed_bytes": needed})]


def engine_check(path: Path, probe: Probe, capabilities: Sequence[str]) -> Check:
    """An engine's manifest against the library and the GPUs of this machine, before anything is loaded."""
    try:
        _, manifest = read_engine(path)
    except ArtifactError as e:
        return Check("engine", "failed", str(e), "copy the engine and its .json file together, or build it again")
    built = f"TensorRT flavour {manifest.flavour} {manifest.library_version}, for GPUs {', '.join(manifest.targets)}"
    details = {
        "flavour": manifest.flavour,
        "library_version": manifest.library_version,
        "targets": list(manifest.targets),
        "precision": manifest.precision,
        "hardware_compatible": manifest.hardware_compatible,
        "version_compatible": manifest.version_compatible,
    }
    reason = _reason(manifest, probe("tensorrt", MODULES[manifest.flavour]), capabilities)
    if reason:
        return Check(
            "engine", "failed", f"{built}: {reason}", "build an engine for this machine, or run the .onnx", details
        )
    return Check("engine", "ok", built, details=details)


def _reason(manifest: EngineManifest, library: Answer, capabilities: Sequence[str]) -> str:
    """Return why this machine cannot load the engine; empty if its manifest allows it."""
    if "version" not in library:
        return f"its library is not usable here ({library.get('missing') or library.get('failed')})"
    if not capabilities:
        return "this machine has no usable NVIDIA GPU"
    reasons = []
    for capability in capabilities:
        try:
            manifest.check_loadable(manifest.flavour, library["version"], capability)
        except ArtifactError as e:
            reasons.append(str(e))
        else:
            return ""
    return reasons[0]


def run_check(answer: Answer) -> Check:
    """Result of loading the file and running it on one grey image."""
    reason = answer.get("error") or answer.get("failed") or answer.get("missing")
    if reason is not None:
        return Check("runs here", "failed", str(reason), "see the message; condinst-inspect describes the file", answer)
    found = (
        f"yes, by the backend {answer['backend']} on {answer['device']}"
        f" ({answer['family']}, {counted(answer['classes'], 'class')}, {answer['precision']})"
    )
    return Check("runs here", "ok", found, details=answer)
