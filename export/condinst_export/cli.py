"""`condinst-export`: a checkpoint becomes one verified ONNX file."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.status import Status

from condinst_deploy.cli.command import command_app, print_json, print_line, terminal
from condinst_deploy.cli.progress import ProgressLines
from condinst_deploy.contract import Family
from condinst_deploy.contract.artifacts import EXPORT_FOLDER
from condinst_deploy.errors import ConfigError
from condinst_export.export_options import ExportOptions, checked_output, class_names_from
from condinst_export.quantization.calibration_options import IMAGES, calibration_from

if TYPE_CHECKING:
    from condinst_deploy.contract import ModelManifest
    from condinst_export.exporter import ExportReports
    from condinst_export.verify import CaseResult


def export(
    weights: Annotated[
        Path, typer.Option(help="Checkpoint: mmdetection's or AdelaiDet's CondInst (.pth), or this toolkit's own.")
    ],
    family: Annotated[
        Family | None, typer.Option(help="Family that the checkpoint must be of. Default: recognised by its keys.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help=f"File to write. Default: {EXPORT_FOLDER}/NAME_OF_THE_WEIGHTS.onnx")
    ] = None,
    max_detections: Annotated[
        int | None,
        typer.Option(help="Slots for detections of one image; fixed in the file. Default: the model's, 100."),
    ] = None,
    score_threshold: Annotated[
        float | None,
        typer.Option(
            help="Keep candidates whose class probability (AdelaiDet: times centerness) is above it, 0 to 1."
            " Default: the model's, 0.05."
        ),
    ] = None,
    nms_iou: Annotated[
        float | None, typer.Option(help="Overlap above which a detection of the same class is dropped. Default: 0.6.")
    ] = None,
    candidates_per_level: Annotated[
        int | None,
        typer.Option(
            help="Candidates that go from each pyramid level to NMS, mmdetection's nms_pre. Default: the model's, 1000."
        ),
    ] = None,
    static: Annotated[
        str | None,
        typer.Option(
            metavar="BxHxW", help="Fix batch, height and width, for example 1x800x1344. Default: all dynamic."
        ),
    ] = None,
    class_names: Annotated[
        Path | None, typer.Option(help="Text file with one class name a line, for a checkpoint without names.")
    ] = None,
    int8: Annotated[
        bool,
        typer.Option(
            "--int8", help="Write NAME.int8.onnx for CPUs with VNNI: convolutions in 8 bits. Needs --calibration."
        ),
    ] = False,
    calibration: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder of images of the kind that the model will see: ranges of 8 bits are found on most of them, and"
            " the result is judged on the others.",
        ),
    ] = None,
    calibration_images: Annotated[
        int | None, typer.Option(metavar="N", help=f"Most images to calibrate on. Default: {IMAGES}.")
    ] = None,
    calibration_method: Annotated[
        str | None, typer.Option(metavar="NAME", help="entropy, mse or max: how ranges are chosen. Default: mse.")
    ] = None,
    keep_float: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATTERN",
            help='Convolutions that --int8 keeps in float32, for example "mask_branch*"; repeat it for several.',
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output.")] = False,
) -> None:
    """Turn a CondInst checkpoint into one ONNX file, and prove it equal to the PyTorch model.

    The file runs in ONNX Runtime as it is and is what engines are built from. It is compared with PyTorch
    on several images and sizes before it gets its name; if they disagree, nothing is written.
    With --int8 the file is for ONNX Runtime on CPUs alone: engines are built from the float32 file.
    """
    shape = _static_shape(static)
    checked_output(weights, out, int8=int8)
    names = None if class_names is None else class_names_from(class_names)
    if calibration is not None and not int8:
        raise ConfigError("--calibration is for INT8 files; give --int8, too")
    asked = calibration_from(calibration, calibration_images, calibration_method, ["--int8"] if int8 else [])
    options = ExportOptions(
        max_detections=max_detections,
        score_threshold=score_threshold,
        nms_iou=nms_iou,
        static_shape=shape,
        candidates_per_level=candidates_per_level,
        family=family,
        class_names=names,
        int8=asked,
        keep_float=tuple(keep_float or ()),
    )
    # PyTorch takes seconds to import: only after the arguments were checked
    from condinst_export.exporter import export_model

    with terminal.status("starting") as status:
        exported = export_model(weights, out, options, _reports(weights, status))
    size = exported.path.stat().st_size / 1e6
    terminal.print(f"exported and verified in {exported.seconds:.0f} s, {size:.0f} MB")
    if as_json:
        print_json(exported.summary())
    else:
        print_line(exported.path)


def _reports(weights: Path, status: Status) -> "ExportReports":
    """Lines on the terminal."""
    from condinst_deploy.evaluation.agreement import ONNX_TOLERANCE
    from condinst_export.exporter import COMPARING, ExportReports

    own_threshold: float | None = None
    lines = ProgressLines()

    def on_stage(stage: str) -> None:
        if stage == COMPARING:
            terminal.print(f"comparing ONNX Runtime with PyTorch (expected: the same set, {ONNX_TOLERANCE}):")
        else:
            lines.stage(stage)
        status.update(stage)

    def on_progress(what: str, done: int, of: int) -> None:
        status.update(lines.update(what, done, of))

    def on_loaded(note: str, manifest: "ModelManifest") -> None:
        nonlocal own_threshold
        own_threshold = manifest.selection.score_threshold
        terminal.print(f"{weights}: {note}")

    def on_case(result: "CaseResult") -> None:
        batch, _, height, width = result.shape
        lowered = result.score_threshold != own_threshold
        where = f", once more with the threshold at {result.score_threshold:.2g} to find something" if lowered else ""
        terminal.print(f"  {result.name}, {batch}x{height}x{width}{where}: {result.agreement}")

    return ExportReports(on_stage, on_loaded, terminal.print, on_case, on_progress)


def _static_shape(text: str | None) -> tuple[int, int, int] | None:
    if text is None:
        return None
    match = re.fullmatch(r"([0-9]{1,9})x([0-9]{1,9})x([0-9]{1,9})", text)
    if match is None:
        raise ConfigError(f"--static is {text!r}; expected BATCHxHEIGHTxWIDTH, for example 1x800x1344")
    batch, height, width = (int(n) for n in match.groups())
    return batch, height, width


main = command_app(export, extra="export")
