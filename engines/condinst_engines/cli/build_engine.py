"""`condinst-build-engine`: an exported file becomes a TensorRT engine."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TextIO

import typer
from rich.progress import TaskProgressColumn, TimeElapsedColumn

from condinst_deploy.cli.command import command_app, print_json, print_line, progress_bar, terminal
from condinst_deploy.errors import ConfigError, OutputError

if TYPE_CHECKING:
    from condinst_deploy.contract.engine_manifest import EngineManifest
    from condinst_engines.build_recipe import BuildRecipe
    from condinst_engines.builder_library import BuilderLibrary


def build_engine(
    onnx: Annotated[
        Path | None,
        typer.Option("--onnx", help="File of condinst-export. Default: the only one in export/build."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="File to write. Default: engines/build/NAME.FLAVOUR.PRECISION.smTARGETS.engine")
    ] = None,
    fp32: Annotated[bool, typer.Option("--fp32", help="Everything in float32 (the default).")] = False,
    fp16: Annotated[bool, typer.Option("--fp16", help="Convolutions in float16: about half the size.")] = False,
    bf16: Annotated[bool, typer.Option("--bf16", help="Convolutions in bfloat16: no overflow, less exact.")] = False,
    flavour: Annotated[
        str | None,
        typer.Option(help="tensorrt or rtx (TensorRT for RTX). Default: tensorrt where it is installed."),
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(help="data_centre, t4_l4, rtx_workstation, or a TOML file; options given here come before it."),
    ] = None,
    shapes: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MIN:OPT:MAX",
            help="Shapes to accept and to tune for, for example images=1x3x320x320:1x3x800x1344:8x3x1344x1344;"
            " repeat it for several profiles. Default: one that suits the model, batch 1 to 8.",
        ),
    ] = None,
    sm: Annotated[
        str | None,
        typer.Option(metavar="LIST", help="rtx: compute capabilities to build for. Default: 86,89,120."),
    ] = None,
    optimization_level: Annotated[int | None, typer.Option(help="0 (quick) to 5 (thorough). Default: 3.")] = None,
    workspace_gb: Annotated[float | None, typer.Option(help="Largest scratch memory, GiB. Default: no limit.")] = None,
    timing_cache: Annotated[
        Path | None, typer.Option(help="tensorrt: file that remembers timings between builds.")
    ] = None,
    hardware_compatible: Annotated[
        bool, typer.Option("--hardware-compatible", help="tensorrt: run on every GPU from Ampere on; may be slower.")
    ] = False,
    version_compatible: Annotated[
        bool, typer.Option("--version-compatible", help="tensorrt: run with later versions of TensorRT.")
    ] = False,
    no_plugins: Annotated[
        bool, typer.Option("--no-plugins", help="tensorrt: standard layers only, no kernels of ours inside the engine.")
    ] = False,
    refit: Annotated[bool, typer.Option("--refit", help="Let weights be exchanged later.")] = False,
    strip_weights: Annotated[
        bool, typer.Option("--strip-weights", help="Leave the weights out; they come by refitting.")
    ] = False,
    calibration: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder of images that the ranges of half precision are checked on. Default: a built-in set.",
        ),
    ] = None,
    keep_policy: Annotated[
        Path | None,
        typer.Option(metavar="FILE.toml", help="Also write the policy of the range check, as a recipe to edit."),
    ] = None,
    keep_onnx: Annotated[Path | None, typer.Option(help="Also write the exact graph that the builder gets.")] = None,
    log: Annotated[Path | None, typer.Option(help="File for everything that the builder says.")] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the engine's manifest as JSON on standard output.")
    ] = False,
) -> None:
    """Turn an exported ONNX file into a TensorRT engine, and say what precision it has.

    Before a half engine is built, the graph runs with its rounding on images: tensors that come close to the largest
    float16 number are scaled exactly or moved to bfloat16 or float32, by name, or the build is refused.
    The engine is a plain plan, which trtexec reads, too; its manifest lies beside it as ENGINE.json and
    travels with it.
    TensorRT for RTX builds on any machine; full TensorRT builds on the GPU that the engine is for.
    """
    # imported here, so that --help does not wait for PyTorch
    from condinst_deploy.contract.engine_manifest import manifest_path
    from condinst_engines.build import Surroundings
    from condinst_engines.build_recipe import BuildRecipe, load_recipe
    from condinst_engines.builder_library import load_builder_library
    from condinst_engines.engine_file import EngineFiles, check_apart, default_engine_path, engine_from_onnx
    from condinst_engines.onnx_input import only_exported

    chosen = load_recipe(recipe) if recipe is not None else BuildRecipe()
    chosen = _with_precision(chosen, float32=fp32, float16=fp16, bfloat16=bf16)
    chosen = _with_options(
        chosen,
        optimization_level=optimization_level,
        workspace_gb=workspace_gb,
        refit=refit or None,
        strip_weights=strip_weights or None,
    )
    library = load_builder_library(flavour)
    chosen = _with_rtx(chosen, library, sm)
    chosen = _with_tensorrt(chosen, library, hardware_compatible, version_compatible)
    if no_plugins:
        chosen = replace(chosen, tensorrt=replace(chosen.tensorrt, plugins=False))
    files = EngineFiles(onnx or only_exported(), out, keep_onnx, calibration, keep_policy)
    engine = out or default_engine_path(files.source, chosen, library)
    written = {
        "--out": engine,
        "the manifest": manifest_path(engine),
        "--keep-onnx": keep_onnx,
        "--keep-policy": keep_policy,
    }
    check_apart({"--onnx": files.source} | written | {"--log": log, "--timing-cache": timing_cache})
    terminal.print(f"{files.source} -> TensorRT flavour {library.name}, version {library.version}")
    with _log_file(log) as log_file, progress_bar(TaskProgressColumn(), TimeElapsedColumn()) as progress:
        task = progress.add_task("reading the graph", total=1.0)

        def show(share: float, phase: str) -> None:
            progress.update(task, completed=share, description=phase.lower() or "building")

        def note(text: str) -> None:
            terminal.print(f"  {text}")

        surroundings = Surroundings(timing_cache, log_file, show, note)
        path, manifest = engine_from_onnx(files, chosen, library, surroundings, shapes or ())
    if as_json:
        print_json({"path": str(path)} | asdict(manifest))
        return
    _summarise(manifest)
    print_line(path)


def _with_precision(recipe: "BuildRecipe", **asked: bool) -> "BuildRecipe":
    names = [name for name, wanted in asked.items() if wanted]
    if len(names) > 1:
        raise ConfigError("give one of --fp32, --fp16 and --bf16")
    return _with_options(recipe, precision=names[0] if names else None)


def _with_options(recipe: "BuildRecipe", **options: object) -> "BuildRecipe":
    given = {name: value for name, value in options.items() if value is not None}
    return replace(recipe, **given)  # type: ignore[arg-type]


def _with_rtx(recipe: "BuildRecipe", library: "BuilderLibrary", sm: str | None) -> "BuildRecipe":
    if sm is None:
        return recipe
    if not library.builds_ahead:
        raise ConfigError("--sm is for --flavour rtx; full TensorRT builds for the GPU in this machine")
    targets = tuple(part.strip().lower().removeprefix("sm") for part in sm.split(","))
    return replace(recipe, rtx=replace(recipe.rtx, sm=targets))


def _with_tensorrt(recipe: "BuildRecipe", library: "BuilderLibrary", hardware: bool, version: bool) -> "BuildRecipe":
    if not (hardware or version):
        return recipe
    if not library.has_compatibility:
        raise ConfigError(
            "--hardware-compatible and --version-compatible are for --flavour tensorrt;"
            " TensorRT for RTX builds for several GPUs with --sm"
        )
    settings = recipe.tensorrt
    changed = replace(
        settings,
        hardware_compatible=settings.hardware_compatible or hardware,
        version_compatible=settings.version_compatible or version,
    )
    return replace(recipe, tensorrt=changed)


@contextmanager
def _log_file(path: Path | None) -> Iterator[TextIO | None]:
    if path is None:
        yield None
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        opened = path.open("w", encoding="utf-8")
    except OSError as e:
        raise OutputError(f"the log {path} cannot be written ({e.strerror or e})") from e
    with opened:
        yield opened


def _summarise(manifest: "EngineManifest") -> None:
    layers = ", ".join(f"{count} in {kind}" for kind, count in manifest.found.layers.items())
    asked = "as asked" if manifest.is_as_asked else "NOT as asked"
    terminal.print(f"  precision: {manifest.precision}, {asked}; layers by the {manifest.found.source}: {layers}")
    terminal.print(f"  for GPUs of compute capability {', '.join(manifest.targets)}")
    if manifest.plugins:
        terminal.print(f"  plugins: {', '.join(manifest.plugins)}")
    for number, profile in enumerate(manifest.profiles):
        images = profile["images"]
        smallest, usual, largest = ("x".join(str(n) for n in shape) for shape in (images.min, images.opt, images.max))
        terminal.print(f"  profile {number}: images from {smallest} to {largest}, tuned for {usual}")
    terminal.print(f"  {manifest.plan_bytes / 1e6:.0f} MB, built in {manifest.build_seconds:.0f} s")


main = command_app(build_engine)
