"""`condinst-inspect`: what a checkpoint, an exported file or an engine is."""

from pathlib import Path
from typing import Annotated, Any

import typer

from condinst_deploy.cli.command import command_app, labelled, print_json, results_console
from condinst_deploy.contract.artifacts import check_there
from condinst_deploy.shown_text import counted, quoted_if_odd

MOST_CLASSES, MOST_LAYERS = 10, 30


def inspect(
    file: Annotated[Path, typer.Argument(help="Checkpoint (.pth), exported file (.onnx) or engine (.engine).")],
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON on standard output.")] = False,
) -> None:
    """Say what a file is: tensors, profiles, precision, classes, preprocessing, versions.

    An engine is checked against its manifest. Its layers are listed where this machine has a GPU that can load it.
    """
    check_there(file)
    # imported here, so that neither --help nor a mistake waits for the builder's libraries
    from condinst_engines.inspection import inspect_file

    found = inspect_file(file)
    if as_json:
        print_json(found, "the description")
        return
    console = results_console()
    console.print(labelled(found["kind"], "bold", found["path"]))
    for line in {"checkpoint": _checkpoint, "ONNX file": _onnx, "TensorRT engine": _engine}[found["kind"]](found):
        console.print(line)


def _checkpoint(found: dict[str, Any]) -> list[str]:
    return [f"  {found['note']}", f"  {found['parameters']:,} parameters, float32", *_model(found["manifest"])]


def _onnx(found: dict[str, Any]) -> list[str]:
    opsets = ", ".join(f"{domain} {version}" for domain, version in found["opsets"].items())
    weights = ", ".join(f"{count} {kind}" for kind, count in found["weights"].items())
    functions = ", ".join(found["functions"]) or "none (inlined)"
    return [
        f"  by {found['producer']}; opsets {opsets}; precision {found['precision'] or 'unknown'}",
        f"  weights: {weights}",
        *_tensors("input", found["inputs"]),
        *_tensors("output", found["outputs"]),
        f"  {counted(len(found['nodes']), 'node')}; functions: {functions}",
        *(_model(found["manifest"]) if found["manifest"] else ["  no manifest of this toolkit: of another tool"]),
    ]


def _engine(found: dict[str, Any]) -> list[str]:
    engine = found["engine"]
    layers = ", ".join(f"{count} in {kind}" for kind, count in engine["found"]["layers"].items())
    lines = [
        f"  flavour {engine['flavour']}, version {engine['library_version']}, {engine['plan_bytes'] / 1e6:.0f} MB,"
        f" built in {engine['build_seconds']:.1f} s on {engine['host']} from {engine['onnx']}",
        f"  for GPUs of compute capability {', '.join(engine['targets'])}"
        + (" and every other from Ampere (80) on" if engine["hardware_compatible"] else ""),
        f"  precision {engine['precision']}; layers by the {engine['found']['source']}: {layers}",
        *_quantization(engine["quantization"]),
        *_ranges(engine["ranges"]),
        f"  plugins: {', '.join(engine['plugins']) or 'none'}",
        *_tensors("input", [t for t in engine["tensors"] if t["role"] == "input"]),
        *_tensors("output", [t for t in engine["tensors"] if t["role"] == "output"]),
    ]
    for number, profile in enumerate(engine["profiles"]):
        for name, shapes in profile.items():
            texts = (_shape(shapes[key]) for key in ("min", "opt", "max"))
            lines.append(f"  profile {number}: {name} {':'.join(texts)}")
    lines += _model(engine["model"])
    lines += [f"  layer {layer.get('Name', '?')}" for layer in found["layers"][:MOST_LAYERS]]
    if len(found["layers"]) > MOST_LAYERS:
        lines.append(f"  {MOST_LAYERS} of {len(found['layers'])} layers shown; --json prints all")
    return [*lines, f"  {found['remark']}"] if found["remark"] else lines


def _ranges(ranges: dict[str, Any] | None) -> list[str]:
    if ranges is None:
        return ["  ranges: not checked"]
    from condinst_deploy.contract.engine_ranges import CheckedRanges
    from condinst_deploy.support.validation import typed

    checked = typed(ranges, CheckedRanges)
    blocks = ", ".join(f"{name} {value:.4g}" for name, value in checked.blocks.items())
    return [
        f"  ranges: {checked}; SHA-256 of the images {checked.images_sha256}",
        f"  largest magnitudes: {blocks}",
        *(f"  handled: {node}" for node in checked.handled),
    ]


def _quantization(quantization: dict[str, Any] | None) -> list[str]:
    if quantization is None:
        return []
    from condinst_deploy.contract.quantization import Quantization
    from condinst_deploy.support.validation import typed

    found = typed(quantization, Quantization)
    judged = [] if found.agreement is None else [f"  8 bits beside float32: {found.agreement}"]
    kept = [f"  kept in float32: {', '.join(found.kept_float)}"] if found.kept_float else []
    return [f"  {found}; SHA-256 of the images {found.images_sha256}", *judged, *kept]


def _tensors(role: str, tensors: list[dict[str, Any]]) -> list[str]:
    return [f"  {role} {tensor['name']}: {tensor['dtype']} {_shape(tensor['shape'])}" for tensor in tensors]


def _shape(shape: list[Any]) -> str:
    return "x".join(str(side) for side in shape)


def _model(manifest: dict[str, Any]) -> list[str]:
    names, preprocessing, selection = manifest["class_names"], manifest["preprocessing"], manifest["selection"]
    quantization = manifest.get("quantization")
    shown = ", ".join(map(quoted_if_odd, names[:MOST_CLASSES])) + (", ..." if len(names) > MOST_CLASSES else "")
    return [
        *_quantization(quantization),
        f"  family {manifest['family']}; {counted(len(names), 'class')}: {shown}",
        f"  images: short side {preprocessing['short_side']}, long side at most {preprocessing['long_side']},"
        f" padded to {preprocessing['pad_divisor']}",
        f"  class probability above {selection['score_threshold']}, NMS at IoU {selection['nms_iou']},"
        f" at most {counted(selection['max_detections'], 'instance')}",
        f"  weights from {manifest['source'] or 'an unnamed file'}",
    ]


main = command_app(inspect)
