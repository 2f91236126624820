"""`condinst-export`: a checkpoint becomes one verified ONNX file."""

import re
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from condinst_deploy.cli.command import command_app, print_json, print_line, terminal
from condinst_deploy.contract import Family
from condinst_deploy.contract.artifacts import CHECKPOINT, ONNX, check_there
from condinst_deploy.errors import ConfigError

DEFAULT_FOLDER = Path("export/build")
"""Where exported files go, below the current directory."""


def export(
    weights: Annotated[
        Path, typer.Option(help="Checkpoint: mmdetection's or AdelaiDet's CondInst (.pth), or this toolkit's own.")
    ],
    family: Annotated[
        Family | None, typer.Option(help="Family that the checkpoint must be of. Default: told by its keys.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help=f"File to write. Default: {DEFAULT_FOLDER}/NAME_OF_THE_WEIGHTS.onnx")
    ] = None,
    max_detections: Annotated[
        int | None,
        typer.Option(help="Slots for detections of one image; fixed in the file. Default: the model's, 100."),
    ] = None,
    score_threshold: Annotated[
        float | None,
        typer.Option(
            help="What a candidate's class probability (AdelaiDet: times centerness) must be above, 0 to 1."
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
        Path | None, typer.Option(help="Text file with one class name a line, where the checkpoint has none.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output.")] = False,
) -> None:
    """Turn a CondInst checkpoint into one ONNX file, and prove it equal to the PyTorch model.

    The file runs in ONNX Runtime as it is and is what engines are built from. It is compared with PyTorch
    on several images and sizes before it gets its name; if they disagree, nothing is written.
    """
    started = time.perf_counter()
    shape = _static_shape(static)
    if out is not None and out.suffix != ONNX:
        raise ConfigError(f"--out is {out}; expected a name ending in .onnx")
    check_there(weights, CHECKPOINT)
    # imported here, so that neither --help nor a mistake waits for PyTorch
    import onnx

    from condinst_deploy.contract import contiguous_ids
    from condinst_deploy.evaluation.agreement import ONNX_TOLERANCE
    from condinst_deploy.model.checkpoints import load_model
    from condinst_deploy.support.atomic_write import atomic_path
    from condinst_export.onnx_file import ExportOptions, onnx_from_model, tensorrt_remarks, with_options
    from condinst_export.verify import CaseResult, verify_onnx

    options = ExportOptions(max_detections, score_threshold, nms_iou, shape, candidates_per_level)
    with terminal.status("reading the checkpoint"):
        loaded = load_model(weights, family)
    terminal.print(f"{weights}: {loaded.note}")
    manifest = with_options(loaded.model, loaded.manifest, options)
    if class_names is not None:
        names = _class_names(class_names, len(manifest.class_names))
        manifest = replace(manifest, class_names=names, category_ids=contiguous_ids(names))
    path = (out or DEFAULT_FOLDER / f"{weights.stem}.onnx").absolute()

    def show(result: CaseResult) -> None:
        batch, _, height, width = result.shape
        lowered = result.score_threshold != manifest.selection.score_threshold
        where = f", once more with the threshold at {result.score_threshold:.2g} to find something" if lowered else ""
        terminal.print(f"  {result.name}, {batch}x{height}x{width}{where}: {result.agreement}")

    with atomic_path(path) as temporary:
        with terminal.status("exporting the graph"):
            proto = onnx_from_model(loaded.model, manifest)
        for remark in tensorrt_remarks(proto):
            terminal.print(remark)
        terminal.print(f"comparing ONNX Runtime with PyTorch (expected: the same set, {ONNX_TOLERANCE}):")
        with terminal.status("comparing"):
            verification = verify_onnx(proto, loaded.model, manifest, show)
        onnx.save(proto, str(temporary))
    seconds = time.perf_counter() - started
    terminal.print(f"exported and verified in {seconds:.0f} s, {path.stat().st_size / 1e6:.0f} MB")
    if as_json:
        summary: dict[str, Any] = {
            "path": str(path),
            "seconds": round(seconds, 1),
            "manifest": asdict(manifest),
            "verification": {
                "tolerance": asdict(ONNX_TOLERANCE),
                "total": verification.total.summary(),
                "cases": [
                    {"name": r.name, "shape": list(r.shape), "score_threshold": r.score_threshold}
                    | r.agreement.summary()
                    for r in verification.results
                ],
            },
        }
        print_json(summary)
    else:
        print_line(path)


def _static_shape(text: str | None) -> tuple[int, int, int] | None:
    if text is None:
        return None
    match = re.fullmatch(r"(\d+)x(\d+)x(\d+)", text)
    if match is None:
        raise ConfigError(f"--static is {text!r}; expected BATCHxHEIGHTxWIDTH, for example 1x800x1344")
    batch, height, width = (int(n) for n in match.groups())
    return batch, height, width


def _class_names(path: Path, count: int) -> tuple[str, ...]:
    try:
        names = tuple(line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip())
    except (OSError, UnicodeDecodeError) as e:
        raise ConfigError(f"{path} cannot be read as a list of class names ({e})") from e
    if len(names) != count:
        raise ConfigError(f"{path} names {len(names)} classes; the model has {count}")
    return names


main = command_app(export)
