"""Kinds of model files: by the ending of the name, and whether the first bytes contradict it."""

import os
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path

from condinst_deploy.contract.file_contents import (
    CHECKPOINT_WORDS,
    ENGINE_WORDS,
    ONNX_WORDS,
    ZIP_WORDS,
    start_of,
    unsafe_pickle_words,
    words_of,
)
from condinst_deploy.contract.precision import Precision
from condinst_deploy.errors import ArtifactError, CheckpointError, CondInstError, ConfigError, MissingFileError
from condinst_deploy.imaging.image_files import SUFFIXES
from condinst_deploy.shown_text import shown_value
from condinst_deploy.support.input_files import is_folder, is_there

CHECKPOINT, ONNX, ENGINE = ".pth", ".onnx", ".engine"
"""The kinds. Each is named by the ending that this toolkit writes."""

INT8_ONNX = f".int8{ONNX}"
"""Ending of quantised files for CPUs. Engines are built from float32 files: commands that look for one skip these."""

EXPORT_FOLDER = Path("export/build")
"""Folder that condinst-export writes to and condinst-build-engine looks in, relative to the current directory."""

KINDS = {CHECKPOINT: CHECKPOINT, ".pt": CHECKPOINT, ONNX: ONNX, ENGINE: ENGINE, ".plan": ENGINE}
"""Ending of a file name, in lower case -> kind."""

_MISSING: dict[str, tuple[type[CondInstError], str]] = {
    CHECKPOINT: (CheckpointError, "no checkpoint at {path}: give the path of a {ending} file"),
    ONNX: (ArtifactError, "no model at {path}: write one with condinst-export --weights model.pth"),
    ENGINE: (ArtifactError, "no engine at {path}: write one with condinst-build-engine"),
}


def kind_of(path: Path) -> str | None:
    """CHECKPOINT, ONNX or ENGINE by the file's name; None if the ending is not known."""
    return KINDS.get(path.suffix.lower())


_NAMES = {CHECKPOINT: CHECKPOINT_WORDS, ONNX: ONNX_WORDS, ENGINE: ENGINE_WORDS}


_OTHERS = {
    ".json": "a JSON file",
    ".toml": "a recipe (.toml)",
    ".txt": "a text file",
    ".parquet": "a Parquet file",
}
"""Endings of files that commands read besides models and images."""

UNKNOWN = "of an unknown kind"

MOST_LOOKED_AT = 1000
"""Files of a folder that are looked at for the one that a message names."""

CHECKPOINT_STARTS = (b"PK", b"\x80")
"""First bytes of what PyTorch writes: a zip file, and a pickle before PyTorch 1.6."""

TAR_MARK = (257, b"ustar")
"""Place and content of the mark in a tar file, which PyTorch wrote before 0.1.10."""


def check_kind(path: Path, kind: str, option: str) -> None:
    """Check by its name that a file is not of another kind than an option takes.

    Args:
        path: the file. A name of unknown kind passes; its reader refuses it.
        kind: CHECKPOINT, ONNX or ENGINE.
        option: what the message calls the option.

    Raises:
        ConfigError: it is of another kind: another model, an image, a JSON file, a recipe, a text or a folder.
    """
    if kind_of(path) != kind and (what := kind_words(path)) != UNKNOWN:
        raise ConfigError(f"{option} is {path}, which is {what}; expected {_NAMES[kind]}")


def kind_words(path: Path) -> str:
    """What a file is by its name, or that it is a folder, in the words of messages."""
    found = kind_of(path)
    if is_folder(path):
        return "a folder"
    if found is not None:
        return f"{_NAMES[found]} by its name"
    other = "an image" if path.suffix.lower() in SUFFIXES else _OTHERS.get(path.suffix.lower())
    return UNKNOWN if other is None else f"{other} by its name"


def model_kind(path: Path, kinds: Sequence[str] = (CHECKPOINT, ONNX, ENGINE)) -> str:
    """One of the kinds, by the file's name.

    Args:
        path: the file.
        kinds: those that are taken.

    Raises:
        ConfigError: it is an image, a folder or a model of another kind, or its ending is not known.
        ArtifactError: its ending is not known, and no file is there.
    """
    kind = kind_of(path)
    if kind is None or kind not in kinds:
        endings = ", ".join(ending for ending, known in KINDS.items() if known in kinds)
        near = _found_near(path) if kind is None else ""
        what, expected = kind_words(path), f"expected a model, a file ending in {endings}{near}"
        if what == UNKNOWN and not os.path.lexists(path):
            raise ArtifactError(f"no file at {path}; {expected}")
        if what == UNKNOWN and (words := _model_words(path)):
            expected = f"it is {words} by its content, so rename it; {expected}"
        raise ConfigError(f"{path} is {what}; {expected}")
    return kind


def _model_words(path: Path) -> str | None:
    """Which kind of model a file is by its content; None if it is none, or cannot be read."""
    try:
        words = words_of(start_of(path)) if is_there(path) else None
    except OSError:
        return None
    return words if words in _NAMES.values() else None


def check_images(images: Iterable[str | Path], expected: str) -> None:
    """Check that no model is among files that are given as images.

    Args:
        images: files, folders, patterns or URLs. A folder may have any name.
        expected: what the message asks for instead; `{path}` stands for the model.

    Raises:
        ConfigError: one is a model by its name.
    """
    for path in map(Path, images):
        if kind_of(path) is not None and not is_folder(path):
            raise ConfigError(
                f"{path} is a model by its name and was given as an image; expected {expected.format(path=path)}"
            )


def _found_near(path: Path, kind: str | None = None) -> str:
    """The only model file in a folder, or beside a missing file, as the end of a message; empty if there is not one.

    Args:
        path: the folder or the missing file.
        kind: CHECKPOINT, ONNX or ENGINE; None: any.
    """
    try:
        folder = path if path.is_dir() else path.parent
        with os.scandir(folder) as entries:
            names = [entry.name for entry in islice(entries, MOST_LOOKED_AT) if entry.is_file()]
    except (OSError, ValueError):
        return ""
    found = [name for name in names if (own := kind_of(Path(name))) is not None and kind in (None, own)]
    return f". There is {folder / found[0]}" if len(found) == 1 and len(names) < MOST_LOOKED_AT else ""


def check_json(path: Path, expected: str) -> None:
    """Check that a file that is read as JSON is not a model, an image, a recipe or a folder.

    Raises:
        ConfigError: it is one.
    """
    check_text(path, expected, ".json", ".txt")


def check_text(path: Path, expected: str, *endings: str) -> None:
    """Check that a file that is read, or replaced, as text is not a file of another kind or a folder.

    Args:
        path: the file. A name of unknown kind passes.
        expected: what the message asks for.
        endings: known ones that such a file may have.

    Raises:
        ConfigError: it is of another kind.
    """
    what = kind_words(path)
    if what == "a folder" or (what != UNKNOWN and path.suffix.lower() not in endings):
        raise ConfigError(f"{path} is {what}; expected {expected}")


def check_folder(path: Path, expected: str, missing: type[CondInstError] = MissingFileError) -> None:
    """Check that a folder exists.

    Args:
        path: the folder.
        expected: what the message asks for.
        missing: the error if nothing is there.

    Raises:
        ConfigError: it is a file.
        MissingFileError: nothing is there; or the error that `missing` names.
    """
    if is_folder(path):
        return
    if os.path.exists(path):  # noqa: PTH110  (`Path.exists` raises for a name that no file can have)
        raise ConfigError(f"{path} is a file; expected {expected}")
    raise missing(f"no folder at {path}; expected {expected}")


def check_there(path: Path, kind: str | None = None) -> None:
    """Check that a model file exists and is not one of another kind, before a library is imported to read it.

    Args:
        path: the file. A name of unknown kind passes; its reader refuses it.
        kind: the expected kind, whatever the file's name: CHECKPOINT, ONNX or ENGINE; None: by the name.

    Raises:
        ArtifactError, CheckpointError: the file does not exist, cannot be read, or has the content of another kind.
        ConfigError: it is a folder.
    """
    kind = kind or kind_of(path)
    if kind is not None:
        _start_of(path, kind)


def _start_of(path: Path, kind: str) -> bytes:
    """First bytes of a model file of a kind. Errors are those of `check_there`."""
    if is_folder(path):
        raise ConfigError(f"{path} is a folder; expected {_NAMES[kind]}{_found_near(path, kind)}")
    error, message = _MISSING[kind]
    try:
        if is_there(path):
            start = start_of(path)
            words = words_of(start)
            if words in (None, _NAMES[kind]) or (words == ZIP_WORDS and kind == CHECKPOINT):
                return start
            raise error(f"{path} is {words} by its content; expected {_NAMES[kind]}")
    except OSError as e:
        raise error(f"{path} cannot be read ({e.strerror or e}); expected {_NAMES[kind]}") from e
    ending = path.suffix.lower() if kind_of(path) == kind else kind
    raise error(message.format(path=path, ending=ending) + _found_near(path, kind))


def check_checkpoint(path: Path) -> None:
    """Check that a checkpoint exists and begins as one, before PyTorch is imported to read it.

    Raises:
        CheckpointError: no file is there, it cannot be read, or it has the content of another kind.
        ConfigError: it is a folder.
    """
    start = _start_of(path, CHECKPOINT)
    place, mark = TAR_MARK
    if words := unsafe_pickle_words(start):
        raise CheckpointError(
            f"{path} is {words}; expected a file that torch.save wrote without pickle_protocol: load it where you trust"
            " it, and save the state_dict again with torch.save"
        )
    if not start.startswith(CHECKPOINT_STARTS) and start[place : place + len(mark)] != mark:
        what = f"it begins with {shown_value(start[:20])}" if start else "it is empty"
        raise CheckpointError(
            f"{path} cannot be read as a PyTorch checkpoint ({what}); it may be truncated or of another format:"
            " expected a file that torch.save wrote"
        )


def check_model_file(path: Path) -> None:
    """Check that a model file of any kind exists, before a library is imported to read it.

    Raises:
        ArtifactError, CheckpointError: no file is there.
    """
    check_there(path)
    if not path.is_file():
        raise ArtifactError(f"no model at {path}; expected a checkpoint, an .onnx file or an engine")


def precision_for(path: Path, precision: Precision | None) -> Precision | None:
    """Return the precision to load a file with, where one is asked for several files: it is for checkpoints alone."""
    return precision if kind_of(path) == CHECKPOINT else None


def check_precision_applies(paths: Sequence[Path], precision: Precision | None) -> None:
    """Check that a precision that is asked for is for some of the files.

    Raises:
        ConfigError: none of them is a checkpoint.
    """
    if precision is not None and not any(kind_of(path) == CHECKPOINT for path in paths):
        raise ConfigError(
            f"precision {precision} is asked for, and no model is a checkpoint; other files have the precision that"
            " they were made with"
        )
