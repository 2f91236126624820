"""`condinst-build-engine`: an exported file becomes a TensorRT engine."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import Progress, TaskProgressColumn, TimeElapsedColumn

from condinst_deploy.cli.command import command_app, print_json, print_line, progress_bar, terminal
from condinst_deploy.cli.progress import ProgressLines
from condinst_deploy.errors import ConfigError
from condinst_export.quantization.calibration_options import IMAGES

if TYPE_CHECKING:
    from condinst_deploy.contract.engine_manifest import EngineManifest
    from condinst_deploy.contract.precision import Precision
    from condinst_engines.build_engine_file import BuildReports
    from condinst_engines.builder_library import BuilderLibrary
    from condinst_engines.precision_policy import Quantized


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
    int8: Annotated[
        bool, typer.Option("--int8", help="Convolutions in INT8, the rest in float16 (or --bf16). Needs --calibration.")
    ] = False,
    fp8: Annotated[
        bool, typer.Option("--fp8", help="Convolutions in FP8 (GPUs from 89 on). Needs --calibration.")
    ] = False,
    flavour: Annotated[
        str | None,
        typer.Option(help="tensorrt or rtx (TensorRT for RTX). Default: tensorrt where it is installed."),
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            help="data_centre, t4_l4, rtx_workstation, or a TOML file; options on the command line override it."
        ),
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
        Path | None, typer.Option(help="tensorrt: timing cache, a file that later builds read.")
    ] = None,
    hardware_compatible: Annotated[
        bool, typer.Option("--hardware-compatible", help="tensorrt: run on every GPU from Ampere on; may be slower.")
    ] = False,
    version_compatible: Annotated[
        bool, typer.Option("--version-compatible", help="tensorrt: run with later versions of TensorRT.")
    ] = False,
    no_plugins: Annotated[
        bool, typer.Option("--no-plugins", help="tensorrt: use standard layers only, without this toolkit's kernels.")
    ] = False,
    refit: Annotated[bool, typer.Option("--refit", help="Allow refitting: the weights can be replaced later.")] = False,
    strip_weights: Annotated[
        bool, typer.Option("--strip-weights", help="Write the engine without weights; refit it to run it.")
    ] = False,
    calibration: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder of images: ranges of half precision are checked on it (default: a built-in set)."
            " Ranges of 8 bits are found on most of it; the others judge the result.",
        ),
    ] = None,
    calibration_images: Annotated[
        int | None, typer.Option(metavar="N", help=f"--int8, --fp8: most images to calibrate on. Default: {IMAGES}.")
    ] = None,
    calibration_method: Annotated[
        str | None, typer.Option(metavar="NAME", help="--int8, --fp8: entropy, mse or max. Default: mse.")
    ] = None,
    scales: Annotated[
        Path | None,
        typer.Option(
            metavar="ENGINE.json", help="--int8, --fp8: take the ranges of an earlier engine of the same ONNX file."
        ),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="--int8, --fp8: folder for the report of what 8 bits cost (HTML and JSON)."),
    ] = None,
    sensitivity: Annotated[
        bool,
        typer.Option("--sensitivity", help="--int8, --fp8: also measure what each group of convolutions costs."),
    ] = False,
    keep_policy: Annotated[
        Path | None,
        typer.Option(metavar="FILE.toml", help="Also write the policy of the range check, as a recipe to edit."),
    ] = None,
    keep_onnx: Annotated[Path | None, typer.Option(help="Also write the exact graph that the builder gets.")] = None,
    log: Annotated[Path | None, typer.Option(help="File for the builder's log.")] = None,
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
    precision = _precision(float32=fp32, float16=fp16, bfloat16=bf16)
    quantization = _quantization(precision, int8=int8, fp8=fp8)
    # PyTorch takes seconds to import: not for --help
    from condinst_engines.build_engine_file import build_engine as build
    from condinst_engines.build_options import BuildOptions

    options = BuildOptions(
        recipe=recipe,
        flavour=flavour,
        precision=precision,
        quantization=quantization,
        optimization_level=optimization_level,
        workspace_gb=workspace_gb,
        sm=None if sm is None else tuple(sm.split(",")),
        hardware_compatible=hardware_compatible,
        version_compatible=version_compatible,
        no_plugins=no_plugins,
        refit=refit,
        strip_weights=strip_weights,
        shapes=tuple(shapes or ()),
        timing_cache=timing_cache,
        calibration=calibration,
        calibration_images=calibration_images,
        calibration_method=calibration_method,
        scales=scales,
        report=report,
        sensitivity=sensitivity,
        keep_policy=keep_policy,
        keep_onnx=keep_onnx,
        log=log,
    )
    with progress_bar(TaskProgressColumn(), TimeElapsedColumn()) as progress:
        path, manifest = build(onnx, out, options, _reports(progress))
    if as_json:
        print_json({"path": str(path)} | asdict(manifest))
        return
    _summarise(manifest)
    print_line(path)


def _precision(**asked: bool) -> "Precision | None":
    names: list[Any] = [name for name, wanted in asked.items() if wanted]
    if len(names) > 1:
        raise ConfigError("give one of --fp32, --fp16 and --bf16")
    return names[0] if names else None


def _quantization(precision: "Precision | None", **asked: bool) -> "Quantized | None":
    names: list[Any] = [name for name, wanted in asked.items() if wanted]
    if len(names) > 1:
        raise ConfigError("give one of --int8 and --fp8")
    if names and precision == "float32":
        raise ConfigError(f"--{names[0]} and --fp32: what is not in 8 bits is half; leave --fp32 out")
    return names[0] if names else None


def _reports(progress: Progress) -> "BuildReports":
    from condinst_engines.build_engine_file import BuildReports

    task, lines = progress.add_task("reading the graph", total=1.0), ProgressLines()

    def on_start(source: Path, library: "BuilderLibrary") -> None:
        terminal.print(f"{source} -> TensorRT flavour {library.name}, version {library.version}")

    def on_progress(share: float, phase: str) -> None:
        what = phase.lower() or "building"
        progress.update(task, completed=share, description=what)
        lines.share(what, share)

    return BuildReports(on_start, on_progress, lambda note: terminal.print(f"  {note}"))


def _summarise(manifest: "EngineManifest") -> None:
    layers = ", ".join(f"{count} in {kind}" for kind, count in manifest.found.layers.items())
    asked = "as asked" if manifest.is_as_asked else "NOT as asked"
    terminal.print(f"  precision: {manifest.precision}, {asked}; layers by the {manifest.found.source}: {layers}")
    terminal.print(f"  for GPUs of compute capability {', '.join(manifest.targets)}")
    if manifest.quantization is not None:
        terminal.print(f"  {manifest.quantization}, each proved in the engine")
    if manifest.plugins:
        terminal.print(f"  plugins: {', '.join(manifest.plugins)}")
    for number, profile in enumerate(manifest.profiles):
        images = profile["images"]
        smallest, usual, largest = ("x".join(str(n) for n in shape) for shape in (images.min, images.opt, images.max))
        terminal.print(f"  profile {number}: images from {smallest} to {largest}, tuned for {usual}")
    terminal.print(f"  {manifest.plan_bytes / 1e6:.0f} MB, built in {manifest.build_seconds:.0f} s")


main = command_app(build_engine, extra="rtx")
