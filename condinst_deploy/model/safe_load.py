"""Reading checkpoint files without ever running what is in them."""

import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import torch

from condinst_deploy.contract.artifacts import check_checkpoint
from condinst_deploy.errors import CheckpointError
from condinst_deploy.shown_text import counted


class Inert:
    """Stand-in for an object of a checkpoint that is not a tensor; it does nothing.

    Published files hold training logs (`mmengine.logging.history_buffer.HistoryBuffer`) and numpy
    scalars. They are not needed, so they are not constructed: a stand-in drops all arguments and state.
    """

    def __new__(cls, *_args: Any, **_kwargs: Any) -> "Inert":
        """Drop the arguments."""
        return super().__new__(cls)

    def __init__(self, *_args: Any, **_kwargs: Any) -> None:
        """Drop the arguments."""

    def __setstate__(self, _state: Any) -> None:
        """Drop the state."""


INERT_NAMES = (
    "mmengine.logging.history_buffer.HistoryBuffer",
    # a HistoryBuffer pickles its own methods through getattr: the stand-in looks nothing up
    "builtins.getattr",
    "numpy.core.multiarray._reconstruct",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray._reconstruct",
    "numpy._core.multiarray.scalar",
    "numpy.ndarray",
    "numpy.dtype",
    "mmengine.config.config.ConfigDict",
)
"""Globals of published checkpoints that are replaced by stand-ins; any other one is refused."""


def load_checkpoint_file(path: Path) -> dict[str, Any]:
    """Read the dictionary in a `.pth` file with `weights_only`, on the CPU.

    Raises:
        CheckpointError: the file is missing, damaged, not a checkpoint, or holds objects that would
            have to be run to be read.
        ConfigError: it is a folder.
    """
    check_checkpoint(path)
    _check_size(path)
    # one class a name: the unpickler tells stand-ins apart by identity
    stand_ins = [(type(f"Inert_{i}", (Inert,), {}), name) for i, name in enumerate(INERT_NAMES)]
    try:
        with torch.serialization.safe_globals(stand_ins):  # type: ignore[arg-type]
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as e:
        raise CheckpointError(_refusal(path, str(e))) from e
    except Exception as e:  # a damaged file can make the reader fail in any way
        if _is_cut_off(path, e):
            size = counted(path.stat().st_size, "byte")
            raise CheckpointError(f"{path} is cut off at {size}, or not a checkpoint; fetch or copy it again") from e
        # the first sentence: PyTorch's readers add paragraphs of guesses
        reason = str(e).splitlines()[0].partition(". ")[0] if str(e) else type(e).__name__
        raise CheckpointError(_unreadable(path, reason)) from e
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}; expected a dictionary with weights")
    return content


def _check_size(path: Path) -> None:
    """Check that a zip file does not inflate: `torch.save` stores tensors as they are.

    Raises:
        CheckpointError: its entries are larger than the file.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            inside = sum(entry.file_size for entry in archive.infolist())
    except (OSError, zipfile.BadZipFile, NotImplementedError):
        return  # an older format, or damaged: PyTorch's reader says so
    size = path.stat().st_size
    if inside > size:
        raise CheckpointError(
            f"{path} has {size:,} bytes and would take {inside:,} when unpacked; expected the uncompressed file that"
            " torch.save writes"
        )


def _is_cut_off(path: Path, error: Exception) -> bool:
    """Return whether a file ends too early: a pickle in the middle, or a zip file without its directory."""
    if isinstance(error, EOFError) or "unexpected EOF" in str(error):
        return True
    with path.open("rb") as stream:
        return stream.read(2) == b"PK" and not zipfile.is_zipfile(path)


def _refusal(path: Path, message: str) -> str:
    # PyTorch's messages advise to load the file unsafely; nothing of that is passed on
    asked = re.search(r"[Uu]nsupported (?:global: )?GLOBAL (\S+)", message)
    if asked is None:
        return _unreadable(path, message.split("WeightsUnpickler error:")[-1].strip().splitlines()[0][:100])
    return (
        f"{path} asks for the Python object {asked[1]} to be loaded, which could run code; refused."
        " Save the weights alone (torch.save of the state_dict) where you trust the file"
    )


def _unreadable(path: Path, reason: str) -> str:
    if "weights_only" in reason:
        reason = "it holds more than tensors and plain values"
    other = ""
    if reason.startswith("Unsupported operand"):
        other = (
            ", or write it again by torch.save without pickle_protocol if it was pickled by another protocol than 2,"
            " the one that PyTorch reads safely"
        )
    return (
        f"{path} cannot be read as a PyTorch checkpoint ({reason});"
        f" it may be truncated or of another format: fetch it again{other}"
    )
