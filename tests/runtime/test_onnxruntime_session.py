"""ONNX Runtime sessions: checks of the graph, external weights, and stopping a run."""

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from condinst_deploy.contract import MANIFEST_KEY, OUTPUTS, ModelManifest, NetworkInputs
from condinst_deploy.errors import ArtifactError, BackendError, CondInstError
from condinst_deploy.runtime.onnxruntime_backend import OnnxRuntimeBackend
from condinst_deploy.support import signals
from tests.support.models import SLIM, manifest_of

SLOTS = 5


def outputs(**changes: Any) -> dict[str, np.ndarray[Any, Any]]:
    return {
        "num_detections": np.array([SLOTS], np.int32),
        "boxes": np.zeros((1, SLOTS, 4), np.float32) + np.array([0, 0, 20, 20], np.float32),
        "scores": np.full((1, SLOTS), 0.9, np.float32),
        "labels": np.zeros((1, SLOTS), np.int32),
        "mask_logits": np.ones((1, SLOTS, 8, 8), np.float32),
    } | changes


def graph(values: dict[str, Any], nodes: tuple[onnx.NodeProto, ...] = (), manifest: ModelManifest | None = None) -> Any:
    """A network of constant outputs."""
    constants = [
        helper.make_node("Constant", [], [name], value=numpy_helper.from_array(value, name))
        for name, value in values.items()
    ]
    inputs = [
        helper.make_tensor_value_info("images", TensorProto.UINT8, ["b", 3, "h", "w"]),
        helper.make_tensor_value_info("image_sizes", TensorProto.INT32, ["b", 2]),
    ]
    made = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), None)
        for name, value in values.items()
    ]
    body = helper.make_graph([*nodes, *constants], "condinst", inputs, made)
    proto = helper.make_model(body, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    proto.metadata_props.add(key=MANIFEST_KEY, value=(manifest or manifest_of(SLIM)).to_json())
    return proto


def endless() -> tuple[onnx.NodeProto, ...]:
    """A loop of 2^62 steps."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["go_on"]), helper.make_node("Add", ["v", "v"], ["w"])],
        "body",
        [
            helper.make_tensor_value_info("step", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v", TensorProto.FLOAT, [1]),
        ],
        [
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("w", TensorProto.FLOAT, [1]),
        ],
    )

    def constant(name: str, value: Any) -> onnx.NodeProto:
        return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(np.asarray(value)))

    loop = helper.make_node("Loop", ["trips", "start", "first"], ["last"], body=body)
    return (
        constant("trips", np.int64(2**62)),
        constant("start", np.bool_(True)),
        constant("first", np.zeros(1, np.float32)),
        loop,
    )


def loaded(proto: Any) -> OnnxRuntimeBackend:
    return OnnxRuntimeBackend.from_bytes(proto.SerializeToString(), "m.onnx", "cpu")


def inputs(side: int = 64) -> NetworkInputs:
    return NetworkInputs(np.zeros((1, 3, side, side), np.uint8), np.array([[side, side]], np.int32))


def test_a_graph_of_the_contract_is_accepted() -> None:
    assert loaded(graph(outputs())).forward(inputs()).on_host().scores.shape == (1, SLOTS)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("boxes", lambda value: value.astype(np.float64)),
        ("scores", lambda value: value[0]),
        ("scores", lambda value: value.astype(np.float16)),
        ("labels", lambda value: value.astype(np.int64)),
        ("num_detections", lambda value: value[None]),
        ("mask_logits", lambda value: value[0]),
    ],
)
def test_types_and_ranks_other_than_the_contract_s_are_named(name: str, change: Callable[[Any], Any]) -> None:
    values = outputs()
    values[name] = change(values[name])
    with pytest.raises(ArtifactError, match=rf"m\.onnx: {name} is tensor\(.*expected .* export it again"):
        loaded(graph(values))


def test_other_names_are_shown_and_not_obeyed() -> None:
    proto = graph(outputs())
    proto.graph.input[0].name = "[/nope]\x1b[2J"
    with pytest.raises(ArtifactError, match=r"\[/nope\]\\x1b\[2J.*expected images, image_sizes"):
        loaded(proto)


@pytest.mark.parametrize("shape", [(1, 33, 33), (16, 352, 352), (1, 64, 64)])
def test_a_fixed_shape_that_the_graph_does_not_have_is_refused(shape: tuple[int, int, int]) -> None:
    with pytest.raises(
        ArtifactError,
        match=r"static_shape (\(.*the graph takes images of any size; expected the same|is .* this release cannot use)",
    ):
        loaded(graph(outputs(), manifest=replace(manifest_of(SLIM), static_shape=shape)))


def test_a_graph_of_fixed_shape_needs_it_in_the_manifest() -> None:
    proto = graph(outputs())
    for dim, size in zip(proto.graph.input[0].type.tensor_type.shape.dim, (1, 3, 64, 64), strict=True):
        dim.dim_value = size
    with pytest.raises(ArtifactError, match=r"static_shape None and the graph takes \(1, 64, 64\)"):
        loaded(proto)


def test_what_the_library_raises_in_a_run_is_one_error_of_ours() -> None:
    backend = loaded(graph(outputs()))
    wrong = inputs()._replace(image_sizes=np.zeros((1, 3), np.int32))
    with pytest.raises(BackendError, match=r"ONNX Runtime cannot run m\.onnx \("):
        backend.forward(wrong)


def test_what_the_library_logs_of_a_run_that_fails_stays_out_of_the_terminal(
    capfd: pytest.CaptureFixture[str],
) -> None:
    nodes = (
        helper.make_node("Constant", [], ["five"], value=numpy_helper.from_array(np.zeros(5, np.float32), "five")),
        helper.make_node("Shape", ["images"], ["sizes"]),
        helper.make_node("Reshape", ["five", "sizes"], ["reshaped"], "\x1b]0;t\x07"),
    )
    values = outputs()
    proto = graph({name: value for name, value in values.items() if name != "scores"}, nodes)
    proto.graph.node.append(helper.make_node("ReduceMax", ["reshaped"], ["most"], keepdims=0))
    constant = numpy_helper.from_array(values["scores"], "constant")
    proto.graph.initializer.append(constant)
    proto.graph.node.append(helper.make_node("Add", ["constant", "most"], ["scores"]))
    scores = helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, SLOTS])
    made = {value.name: value for value in proto.graph.output} | {"scores": scores}
    del proto.graph.output[:]
    proto.graph.output.extend(made[name] for name in OUTPUTS)
    backend = loaded(proto)
    with pytest.raises(BackendError) as refused:
        backend.forward(inputs())
    assert r"\x1b]0;t\x07" in str(refused.value)
    assert capfd.readouterr().err == ""


def test_weights_outside_the_file_come_from_beside_it_and_from_nowhere_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = outputs(scores=np.linspace(0.9, 0.5, SLOTS, dtype=np.float32)[None])
    proto = graph({name: value for name, value in values.items() if name != "scores"})
    stored = numpy_helper.from_array(values["scores"], "stored")
    proto.graph.initializer.append(stored)
    proto.graph.node.append(helper.make_node("Identity", ["stored"], ["scores"]))
    scores = helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, SLOTS])
    made = {value.name: value for value in proto.graph.output} | {"scores": scores}
    del proto.graph.output[:]
    proto.graph.output.extend(made[name] for name in OUTPUTS)
    home, other = tmp_path / "home", tmp_path / "other"
    home.mkdir()
    other.mkdir()
    onnx.save(proto, str(home / "m.onnx"), save_as_external_data=True, location="w.bin", size_threshold=0)
    (other / "w.bin").write_bytes(bytes(len((home / "w.bin").read_bytes())))
    monkeypatch.chdir(other)
    found = OnnxRuntimeBackend.load(home / "m.onnx", "cpu").forward(inputs()).on_host().scores
    assert found.tolist() == values["scores"].tolist()
    (home / "w.bin").unlink()
    with pytest.raises(CondInstError, match=r"m\.onnx"):
        OnnxRuntimeBackend.load(home / "m.onnx", "cpu").forward(inputs())
    with pytest.raises(CondInstError, match=r"m\.onnx"):
        OnnxRuntimeBackend.from_bytes((home / "m.onnx").read_bytes(), "m.onnx", "cpu").forward(inputs())


def test_a_network_that_never_ends_is_stopped() -> None:
    backend, errors = loaded(graph(outputs(), endless())), []

    def forward() -> None:
        try:
            backend.forward(inputs())
        except BaseException as e:
            errors.append(e)

    thread = threading.Thread(target=forward)
    thread.start()
    for _ in range(6000):  # until the network runs, there is nothing to cancel
        signals.cancel(thread.ident)
        thread.join(0.01)
        if not thread.is_alive():
            break
    assert not thread.is_alive()
    (error,) = errors
    assert isinstance(error, signals.Stopped)
