"""`build_engine`: check options and files, then build an engine (`plan_builder.py`) and write it (`engine_file.py`)."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TextIO

from condinst_deploy.contract.artifacts import ONNX, check_kind, check_text, check_there
from condinst_deploy.contract.engine_manifest import EngineManifest, manifest_path
from condinst_deploy.errors import OutputError
from condinst_deploy.support.atomic_write import only_writer
from condinst_deploy.support.extras import libraries_of
from condinst_deploy.support.input_files import why_not_written
from condinst_deploy.support.option_types import checked_arguments
from condinst_engines.build_files import EngineFiles, check_apart, only_exported
from condinst_engines.build_options import BuildOptions, recipe_of, request_of
from condinst_engines.builder_library import BuilderLibrary, load_builder_library
from condinst_engines.gpu_coverage import coverage_notes
from condinst_engines.monitor import OnProgress


@dataclass(frozen=True)
class BuildReports:
    """Functions that are called while an engine is built."""

    on_start: Callable[[Path, BuilderLibrary], None] = lambda source, library: None  # what is built, and by what
    on_progress: OnProgress = lambda share, phase: None  # share from 0 to 1, and the name of the phase
    on_note: Callable[[str], None] = lambda note: None  # what a user should know


class BuiltEngineFile(NamedTuple):
    """An engine that was written."""

    path: Path  # absolute; its manifest lies beside it
    manifest: EngineManifest


@checked_arguments
def build_engine(
    onnx: str | Path | None = None,
    out: str | Path | None = None,
    options: BuildOptions | None = None,
    reports: BuildReports | None = None,
) -> BuiltEngineFile:
    """Build a TensorRT engine from an exported ONNX file, and write it with its manifest.

    Args:
        onnx: file of `condinst_export.export_model`; None: the only one in `export/build`.
        out: file to write; None: `engines/build/NAME.FLAVOUR.PRECISION.smTARGETS.engine`.
        options: how it is built.
        reports: functions that are called while it is built.

    Raises:
        ArtifactError: the exported file cannot be used.
        BackendError: no TensorRT is installed.
        ConfigError, EngineError: an engine cannot be built so, or another run writes the same file.
        OutputError: a file cannot be written.
        KeyboardInterrupt: Ctrl-C; nothing was written.
    """
    options, reports = options or BuildOptions(), reports or BuildReports()
    _check_replaced(options)
    library = load_builder_library(options.flavour)
    recipe = recipe_of(options, library)
    request = request_of(options, recipe)
    source, given = only_exported() if onnx is None else Path(onnx), None if out is None else Path(out)
    check_kind(source, ONNX, "--onnx")
    files = EngineFiles(source, given, options.keep_onnx, options.calibration, options.keep_policy, request)
    _check_names(source, given, options)
    check_there(source, ONNX)
    # PyTorch takes seconds to import: only after the options and names were checked
    with libraries_of("rtx"):
        from condinst_engines.engine_file import default_engine_path, engine_from_onnx
        from condinst_engines.plan_builder import Surroundings

    engine = given or default_engine_path(source, recipe, library)
    _check_names(source, engine, options)
    reports.on_start(source, library)
    for note in coverage_notes(options, recipe, library):
        reports.on_note(note)
    if engine.exists():
        reports.on_note(f"{engine} exists and will be replaced; --out writes another file")
    with only_writer(engine), _log_file(options.log, reports.on_note) as log:
        surroundings = Surroundings(options.timing_cache, log, reports.on_progress, reports.on_note)
        return BuiltEngineFile(*engine_from_onnx(files, recipe, library, surroundings, options.shapes))


def _check_names(source: Path, engine: Path | None, options: BuildOptions) -> None:
    """Raise a `ConfigError` if two of the files are the same; engine None: it has no name yet."""
    read = {"--onnx": source, "--recipe": Path(options.recipe) if isinstance(options.recipe, str) else None}
    written = {
        "--out": engine,
        "the manifest": None if engine is None else manifest_path(engine),
        "--keep-onnx": options.keep_onnx,
        "--keep-policy": options.keep_policy,
    }
    check_apart(read | written | {"--log": options.log, "--timing-cache": options.timing_cache})


def _check_replaced(options: BuildOptions) -> None:
    """Raise a `ConfigError` if a file of another kind would be replaced by the builder's log or cache."""
    if options.log is not None:
        check_text(options.log, "the name of a text file for --log, which is replaced", ".txt")
    if options.timing_cache is not None:
        check_text(options.timing_cache, "the name of a file for --timing-cache, which is replaced")


@contextmanager
def _log_file(path: Path | None, on_note: Callable[[str], None]) -> Iterator[TextIO | None]:
    if path is None:
        yield None
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # a pipe without a reader is refused, not waited for
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
        os.set_blocking(descriptor, True)
        opened = os.fdopen(descriptor, "w", encoding="utf-8")
    except OSError as e:
        raise OutputError(f"the log {path} cannot be written ({why_not_written(path.parent, e)})") from e
    try:
        yield opened
    finally:
        try:
            opened.close()
        except OSError as e:  # a log that fails must not lose the engine
            on_note(f"the log {path} is not complete ({e.strerror or e})")
