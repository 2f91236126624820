"""`condinst-compare`: two ONNX files, tensor by tensor."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from condinst_deploy.cli.command import FAILED, command_app, labelled, print_json, results_console, terminal
from condinst_deploy.cli.progress import ProgressLines
from condinst_deploy.contract.artifacts import ONNX, check_images, check_kind, check_there
from condinst_deploy.shown_text import counted
from condinst_deploy.support.json_text import finite_or_none

if TYPE_CHECKING:
    from condinst_deploy.contract import ModelManifest, NetworkInputs
    from condinst_deploy.imaging.decode import RGBArray
    from condinst_engines.tensor_comparison import Comparison


def compare(
    first: Annotated[Path, typer.Argument(metavar="A.onnx", help="The reference, usually what condinst-export wrote.")],
    second: Annotated[Path, typer.Argument(metavar="B.onnx", help="The other, usually what --keep-onnx left.")],
    images: Annotated[list[str], typer.Option(help="Image, folder or pattern; repeat it for more.")],
    top: Annotated[int, typer.Option(min=1, help="How many layers to show.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="Print all tensors as JSON on standard output.")] = False,
) -> None:
    """Show what a precision costs: error norms of outputs and layers, largest first.

    Both files run in ONNX Runtime on the CPU; tensors of half precision, bfloat16 too, are rounded as they would be.
    Of the outputs those detections are compared that both files have. Tensors behind a top-k come last: they are
    compared slot by slot, and where two scores change places, whole slots differ. The exit status is 1 where a tensor
    of B is not finite.
    """
    for name, path in (("A", first), ("B", second)):
        check_kind(path, ONNX, name)
    for path in (first, second):
        check_there(path, ONNX)
    check_images(images, "images for both files")
    # imported here, so that neither --help nor a mistake waits for PyTorch
    from condinst_deploy.imaging.decode import rgb_from
    from condinst_deploy.imaging.image_files import expand_sources
    from condinst_engines.onnx_input import load_onnx, manifest_of
    from condinst_engines.tensor_comparison import compare as compare_tensors

    decoded = [rgb_from(path) for path in expand_sources(images)]
    protos = load_onnx(first), load_onnx(second)
    manifest = manifest_of(protos[0], first)
    batches = [_batch(image, manifest) for image in decoded]
    lines = ProgressLines()
    with terminal.status("comparing") as status:

        def on_run(done: int, total: int) -> None:
            status.update(f"comparing, run {done + 1} of {total}")
            lines.update("runs", done, total)

        comparison = compare_tensors(*protos, batches, on_run)
    errors = comparison.errors
    if as_json:
        tensors = [_plain(asdict(error)) | {"is_output": error.is_output} for error in errors]
        detections = None if comparison.detections is None else asdict(comparison.detections)
        print_json({"detections": detections, "tensors": tensors})
    else:
        _show(comparison, top, f"{second} against {first}, {counted(len(batches), 'image')}")
    broken = [error for error in errors if error.not_finite]
    if broken:
        terminal.print(labelled("not finite:", "bold red", f"{counted(len(broken), 'tensor')} of {second}"))
        raise typer.Exit(FAILED)


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    """Values for JSON: null for a metric of a tensor that is not finite, which `not_finite` counts."""
    return {key: finite_or_none(value) if isinstance(value, float) else value for key, value in values.items()}


def _batch(image: "RGBArray", manifest: "ModelManifest") -> "NetworkInputs":
    from condinst_deploy.runtime.preprocessing.batch import inputs_of_one

    return inputs_of_one(image, manifest)[0]


def _show(comparison: "Comparison", top: int, title: str) -> None:
    outputs = [error for error in comparison.errors if error.is_output]
    layers = [error for error in comparison.errors if not error.is_output]
    table = Table(title=title, title_justify="left")
    for column in ("tensor", "node"):
        table.add_column(column, overflow="fold")
    for column in ("relative", "largest", "magnitude", "not finite"):
        table.add_column(column, justify="right")
    for part in (outputs, layers[:top]):
        for error in part:
            numbers = (f"{error.relative:.2g}", f"{error.largest:.2g}", f"{error.magnitude:.3g}")
            table.add_row(error.name, error.node, *numbers, str(error.not_finite or ""))
        table.add_section()
    console = results_console()
    console.print(table, soft_wrap=False)
    if comparison.detections is not None:
        console.print(f"{comparison.detections}; the rows of the outputs are of the matched ones")
    console.print(f"{counted(len(layers), 'layer')} compared, {min(top, len(layers))} shown; --json prints all")


main = command_app(compare)
