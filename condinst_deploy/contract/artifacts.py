"""Model files by the ending of their name: what is said of one that is missing, before a library is loaded for it."""

import os
from pathlib import Path

from condinst_deploy.errors import ArtifactError, CheckpointError, CondInstError

CHECKPOINT, ONNX, ENGINE = ".pth", ".onnx", ".engine"

_MISSING: dict[str, tuple[type[CondInstError], str]] = {
    CHECKPOINT: (CheckpointError, "no checkpoint at {}: give the path of a .pth file"),
    ".pt": (CheckpointError, "no checkpoint at {}: give the path of a .pt file"),
    ONNX: (ArtifactError, "no model at {}: write one with condinst-export --weights model.pth"),
    ENGINE: (ArtifactError, "no engine at {}: write one with condinst-build-engine"),
    ".plan": (ArtifactError, "no engine at {}: write one with condinst-build-engine"),
}


def check_there(path: Path, kind: str | None = None) -> None:
    """See that a model file is there.

    Args:
        path: the file; a name of no known kind passes, for its reader to refuse.
        kind: what it is to be, whatever it is called: CHECKPOINT, ONNX or ENGINE; None: told by the name.

    Raises:
        ArtifactError, CheckpointError: it is not there.
    """
    error, message = _MISSING.get(kind or path.suffix.lower(), (None, ""))
    if error is not None and not os.path.isfile(path):  # noqa: PTH113  (Path.is_file raises on names no file can have)
        raise error(message.format(path))
