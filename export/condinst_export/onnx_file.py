"""The exported file: traced graph, function bodies and manifest in one self-describing model."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import onnx
import torch

from condinst_deploy.contract import INPUTS, MANIFEST_KEY, OUTPUTS, ModelManifest
from condinst_deploy.contract.onnx_names import DOMAIN
from condinst_deploy.errors import ExportError
from condinst_deploy.model.checkpoints import with_selection
from condinst_deploy.model.condinst import CondInst
from condinst_deploy.model.config import MASK_STRIDE
from condinst_deploy.support.versions import installed_versions
from condinst_export.export_options import ExportOptions as ExportOptions
from condinst_export.functions import OPSET, dynamic_mask_head_function, select_instances_function
from condinst_export.graph import ExportGraph
from condinst_export.node_names import name_nodes

TRACE_SHAPE = (2, 320, 352)
"""Batch, height and width that a dynamic graph is traced with: all different, none of them 1."""

TENSORRT_TOPK = 3840
"""Largest K of a TopK that TensorRT builds (its operator documentation)."""

PROGRAM_NAME = "condinst-deploy"


def with_options(model: CondInst, manifest: ModelManifest, options: ExportOptions) -> ModelManifest:
    """Set the options on the model's selection rules, in place, and on a copy of its manifest."""
    manifest = with_selection(model, manifest, replace(model.config.selection, **options.selection))
    return replace(manifest, static_shape=options.static_shape, tools=_tools())


def tensorrt_remarks(proto: onnx.ModelProto) -> list[str]:
    """Return remarks on parts of an exported file that full TensorRT cannot build; ONNX Runtime runs them."""
    values = {tensor.name: tensor for tensor in proto.graph.initializer}
    counts = [node.input[1] for node in proto.graph.node if node.op_type == "TopK"]
    largest = max((int(onnx.numpy_helper.to_array(values[name]).max()) for name in counts if name in values), default=0)
    if largest <= TENSORRT_TOPK:
        return []
    return [
        f"TensorRT's TopK takes at most {TENSORRT_TOPK} values, and this file asks for {largest}: ONNX Runtime runs it,"
        f" an engine cannot be built from it; export with --candidates-per-level {TENSORRT_TOPK} or less for engines"
    ]


def onnx_from_model(model: CondInst, manifest: ModelManifest) -> onnx.ModelProto:
    """Export the network.

    Args:
        model: with its selection rules set.
        manifest: describes the model, and says whether the shapes are fixed.

    Raises:
        ExportError: the exporter could not trace or translate the graph.
    """
    graph = ExportGraph(model).eval()
    batch, height, width = manifest.static_shape or TRACE_SHAPE
    images = torch.zeros((batch, 3, height, width), dtype=torch.uint8)
    sizes = torch.tensor([[height, width]] * batch, dtype=torch.int32)
    with _quiet():
        try:
            program = torch.onnx.export(
                graph,
                (images, sizes),
                dynamo=True,
                opset_version=OPSET,
                input_names=list(INPUTS),
                output_names=list(OUTPUTS),
                dynamic_shapes=None if manifest.static_shape else _dynamic_shapes(),
                optimize=True,
                verbose=False,
            )
        except Exception as e:  # the exporter's errors have no common base below Exception
            raise ExportError(f"PyTorch {torch.__version__} could not export the model: {str(e).strip()}") from e
    assert program is not None
    return _finished(program.model_proto, model, manifest)


def _dynamic_shapes() -> dict[str, dict[int, object]]:
    batch = torch.export.Dim("batch", min=1, max=1024)
    height, width = (torch.export.Dim(f"{side}_32", min=1, max=1024) for side in ("height", "width"))
    return {"images": {0: batch, 2: 32 * height, 3: 32 * width}, "image_sizes": {0: batch}}


def _finished(proto: onnx.ModelProto, model: CondInst, manifest: ModelManifest) -> onnx.ModelProto:
    """Add the two functions and the manifest; remove what the exporter recorded about its run."""
    proto.functions.extend([select_instances_function(), dynamic_mask_head_function(model.config)])
    if DOMAIN not in {entry.domain for entry in proto.opset_import}:
        proto.opset_import.append(onnx.helper.make_opsetid(DOMAIN, 1))
    name_nodes(proto.graph)
    for node in proto.graph.node:
        del node.metadata_props[:]  # stack traces of the exporting machine
        node.ClearField("doc_string")
    for value in (*proto.graph.value_info, *proto.graph.input, *proto.graph.output, *proto.graph.initializer):
        del value.metadata_props[:]
    del proto.graph.metadata_props[:]
    if manifest.static_shape is None:
        _name_dimensions(proto)
    proto.graph.name = "condinst"
    proto.producer_name = PROGRAM_NAME
    proto.producer_version = manifest.tools[PROGRAM_NAME]
    proto.metadata_props.append(onnx.StringStringEntryProto(key=MANIFEST_KEY, value=manifest.to_json()))
    try:
        onnx.checker.check_model(proto, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as e:
        raise ExportError(f"the exported graph is not valid ONNX: {e}") from e
    return proto


def _name_dimensions(proto: onnx.ModelProto) -> None:
    """Give the dynamic dimensions of inputs and outputs the names that a reader expects."""
    images, sizes = proto.graph.input
    for tensor in (images, sizes, *proto.graph.output):
        tensor.type.tensor_type.shape.dim[0].dim_param = "batch"
    mask_logits = proto.graph.output[-1].type.tensor_type.shape.dim
    for axis, side in ((2, "height"), (3, "width")):
        images.type.tensor_type.shape.dim[axis].dim_param = side
        mask_logits[axis].dim_param = f"{side}/{MASK_STRIDE}"


def _tools() -> dict[str, str]:
    return installed_versions((PROGRAM_NAME, "torch", "onnx", "onnxscript", "onnxruntime-gpu", "onnxruntime"))


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's remarks on itself from the user's terminal."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
