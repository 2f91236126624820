"""Convert an exported file with NVIDIA ModelOpt's AutoCast, for a comparison with our own precision policy.

It runs in a separate environment, because ModelOpt pins other versions than this toolkit:

    python3 -m venv modelopt
    modelopt/bin/pip install nvidia-modelopt==0.47.0 "onnx~=1.21" onnxruntime onnxslim onnx-graphsurgeon \\
        onnxconverter-common onnxscript polygraphy cppimport lief
    PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION=python modelopt/bin/python benchmarks/autocast.py \\
        model.onnx model.autocast.onnx --calibration inputs.npz

AutoCast 0.47 does not take the file as a whole: it does not look into local functions, and of an inlined file it
removes values that only the body of a loop reads. So it gets everything before SelectInstances; what comes behind
stays in float32, which is in its favour. Without protobuf's slow implementation it fails, because it keeps nodes by
their `id`. Without calibration data it fails, too: it makes up negative pixels. `benchmarks/precision.py --other`
then measures the result.
"""

import argparse
import tempfile
import time
from pathlib import Path

import onnx
from modelopt.onnx.autocast import convert_to_mixed_precision

from condinst_deploy.contract.onnx_names import SELECT_INSTANCES

LAST = SELECT_INSTANCES


def behind(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """The node `LAST`, and all that depends on it."""
    values: set[str] = set()
    nodes = []
    for node in graph.node:
        if node.op_type == LAST or values & set(node.input):
            values.update(node.output)
            nodes.append(node)
    return nodes


def front_of(proto: onnx.ModelProto, rest: list[onnx.NodeProto]) -> onnx.ModelProto:
    """The graph before `rest`, with everything that `rest` reads as outputs."""
    later = {node.name for node in rest}
    nodes = [node for node in proto.graph.node if node.name not in later]
    made = {name for node in nodes for name in node.output}
    read = {name for node in rest for name in node.input} | {value.name for value in proto.graph.output}
    known = {value.name: value for value in (*proto.graph.value_info, *proto.graph.output)}
    outputs = [known[name] for name in sorted(made & read)]
    graph = onnx.helper.make_graph(nodes, "front", proto.graph.input, outputs, proto.graph.initializer)
    opsets = [entry for entry in proto.opset_import if not entry.domain]
    front = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=proto.ir_version)
    used = {name for node in nodes for name in node.input}
    kept = [entry for entry in front.graph.initializer if entry.name in used]
    del front.graph.initializer[:]
    front.graph.initializer.extend(kept)
    return front


def joined(front: onnx.ModelProto, proto: onnx.ModelProto, rest: list[onnx.NodeProto]) -> onnx.ModelProto:
    """The converted front with the rest behind it, whose weights get new names."""
    whole = onnx.ModelProto()
    whole.CopyFrom(front)
    weights = {entry.name: entry for entry in proto.graph.initializer}
    for name in {name for node in rest for name in node.input} & weights.keys():
        copy = whole.graph.initializer.add()
        copy.CopyFrom(weights[name])
        copy.name = f"rest_{name}"
    for node in rest:
        copied = whole.graph.node.add()
        copied.CopyFrom(node)
        copied.input[:] = [f"rest_{name}" if name in weights else name for name in node.input]
    del whole.graph.output[:]
    whole.graph.output.extend(proto.graph.output)
    whole.functions.extend(proto.functions)
    whole.opset_import.extend(entry for entry in proto.opset_import if entry.domain)
    whole.metadata_props.extend(proto.metadata_props)
    return whole


def main() -> None:
    parser = argparse.ArgumentParser(description="Convert an exported file to float16 with AutoCast.")
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--calibration", required=True, help="npz with images and image_sizes")
    arguments = parser.parse_args()
    started = time.perf_counter()
    proto = onnx.load(str(arguments.source))
    rest = behind(proto.graph)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "front.onnx"
        onnx.save(front_of(proto, rest), str(path))
        front = convert_to_mixed_precision(
            str(path), low_precision_type="fp16", keep_io_types=True, calibration_data=arguments.calibration
        )
    onnx.save(joined(front, proto, rest), str(arguments.target))
    halves = sum(entry.data_type == onnx.TensorProto.FLOAT16 for entry in front.graph.initializer)
    casts = sum(node.op_type == "Cast" for node in front.graph.node)
    seconds = time.perf_counter() - started
    print(f"{arguments.target}: {seconds:.0f} s, {halves} weights in float16, {casts} casts")


if __name__ == "__main__":
    main()
