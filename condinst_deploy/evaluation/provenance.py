"""Provenance of results: model file, data, options, code, libraries and machine."""

import os
import sys
from functools import cache
from pathlib import Path
from typing import Any

from condinst_deploy.evaluation.ground_truth import GroundTruth
from condinst_deploy.evaluation.sources import EvaluationOptions
from condinst_deploy.runtime.canvases import canvases_as_json
from condinst_deploy.runtime.predictor import Predictor
from condinst_deploy.support.digests import sha256_of, sha256_of_text
from condinst_deploy.support.versions import PACKAGE, RESULT_LIBRARIES, version_of


def run_settings(
    predictor: Predictor, source: Path, ground_truth: GroundTruth, options: EvaluationOptions
) -> dict[str, Any]:
    """All that a model's results depend on beside the images, as plain JSON values."""
    backend, own = predictor.backend, predictor.manifest.selection.lowest_score
    return {
        "model": {"file": source.name, "sha256": sha256_of(source), "manifest": predictor.manifest.to_json()},
        "backend": f"{backend.name} on {backend.device}",
        "device": _device_name(backend.device),
        "threads": {"torch": _torch_threads(), "cores": len(os.sched_getaffinity(0))},
        "batch_size": predictor.batch_size,
        "score_threshold": own if options.score_threshold is None else options.score_threshold,
        "annotations": ground_truth.sha256,
        "code": code_digest(PACKAGE),
        "versions": versions(RESULT_LIBRARIES),
        # journals of runs without these options stay valid
        **({} if options.canvases is None else {"canvases": canvases_as_json(options.canvases)}),
        **({"ignored_classes": sorted(ground_truth.ignored)} if ground_truth.ignored else {}),
    }


def images_with_states(ground_truth: GroundTruth) -> tuple[tuple[int, str], ...]:
    """Every image's id, and a digest of its file's place, size and time: it may be replaced between two runs."""
    states = ((path.resolve(), path.stat()) for path in ground_truth.paths)
    digests = (sha256_of_text(f"{place} {state.st_size} {state.st_mtime_ns}")[:16] for place, state in states)
    return tuple(zip(ground_truth.image_ids, digests, strict=True))


def with_images(settings: dict[str, Any], states: tuple[tuple[int, str], ...]) -> dict[str, Any]:
    """All that a model's results depend on: settings of the run, and a digest of the images' ids and states."""
    return settings | {"images": sha256_of_text(repr(states))}


def metric_versions(fast: bool) -> dict[str, str | None]:
    """Versions of what turns results into metrics."""
    return versions(("condinst-deploy", "faster-coco-eval" if fast else "pycocotools", "numpy"))


def versions(libraries: tuple[str, ...]) -> dict[str, str | None]:
    """Installed version of each; None if it is not there."""
    return {library: version_of(library) for library in libraries}


@cache
def code_digest(package: Path) -> str:
    """SHA-256 of a package's Python files: its version stays the same while it is worked on."""
    files = sorted(package.rglob("*.py"))
    return sha256_of_text("".join(f"{path.relative_to(package).as_posix()} {sha256_of(path)}\n" for path in files))


def _device_name(device: str) -> str | None:
    """A GPU's name; None for a CPU, whose instructions no file names reliably."""
    torch = sys.modules.get("torch")
    return torch.cuda.get_device_name(device) if torch is not None and device.startswith("cuda") else None


def _torch_threads() -> int | None:
    """Threads of PyTorch; None if no backend has imported it, so that nothing depends on them."""
    torch = sys.modules.get("torch")
    return None if torch is None else int(torch.get_num_threads())
