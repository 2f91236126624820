"""A power-of-two scale before a norm changes no bit in float32."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import numpy_helper

from condinst_deploy.errors import ConfigError
from condinst_engines.norm_scale import apply_scales, scalable_groups
from condinst_engines.precision_policy import Policy

TOWER = """
<ir_version: 10, opset_import: ["" : 18]>
tower (float[1, 8, h, w] x, float[1, 8, v, u] y) => (float[1, 8, h, w] a, float[1, 8, v, u] b)
{
    groups = Constant <value: tensor = int64[3] groups_value {0, 4, -1}> ()
    c1 = Conv <pads: ints = [1, 1, 1, 1]> (x, weight, bias)
    r1 = Reshape (c1, groups)
    n1 = InstanceNormalization <epsilon: float = 0.00001> (r1, ones, zeros)
    s1 = Shape (c1)
    a = Reshape (n1, s1)
    c2 = Conv <pads: ints = [1, 1, 1, 1]> (y, weight, bias)
    r2 = Reshape (c2, groups)
    n2 = InstanceNormalization <epsilon: float = 0.00001> (r2, ones, zeros)
    s2 = Shape (c2)
    b = Reshape (n2, s2)
}
"""


def tower(extra: str = "") -> onnx.ModelProto:
    """A convolution shared by two levels, with a norm behind each."""
    graph = onnx.parser.parse_model(TOWER.replace("    b = Reshape", f"    {extra}\n    b = Reshape"))
    for node in graph.graph.node:
        node.name = f"head.cls_tower.0.conv/{node.op_type}_{node.output[0]}"
    rng = np.random.default_rng(0)
    arrays = {
        "weight": rng.standard_normal((8, 8, 3, 3)),
        "bias": rng.standard_normal(8) * 1e-3,
        "ones": np.ones(4),
        "zeros": np.zeros(4),
    }
    for name, array in arrays.items():
        graph.graph.initializer.append(numpy_helper.from_array(array.astype(np.float32), name))
    return graph


def scaled(graph: onnx.ModelProto, *scale: str) -> onnx.ModelProto:
    model = ir.from_proto(graph)
    apply_scales(model, Policy(scale=scale))
    return ir.to_proto(model)


def outputs(graph: onnx.ModelProto, magnitude: float) -> list[Any]:
    rng = np.random.default_rng(1)
    feed = {name: (rng.standard_normal((1, 8, *size)) * magnitude).astype(np.float32) for name, size in SIZES.items()}
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    return list(session.run(None, feed))


SIZES = {"x": (9, 14), "y": (1, 2)}


@pytest.mark.parametrize("magnitude", [1e-4, 1.0, 1e4])
@pytest.mark.parametrize("power", [1, 3, 10])
def test_outputs_are_equal_bit_for_bit(power: int, magnitude: float) -> None:
    """At 1e-4 the variance is about 1e-6: a tenth of epsilon, which then decides the result."""
    for want, have in zip(
        outputs(tower(), magnitude),
        outputs(scaled(tower(), f"head.cls_tower.0.conv/*:{power}"), magnitude),
        strict=True,
    ):
        np.testing.assert_array_equal(have, want)


def test_without_the_epsilon_the_outputs_would_differ() -> None:
    graph = scaled(tower(), "head.cls_tower.0.conv/*:3")
    for node in graph.graph.node:
        for attribute in node.attribute:
            if attribute.name == "epsilon":
                attribute.f = 1e-5
    want, have = outputs(tower(), 1e-4)[0], outputs(graph, 1e-4)[0]
    assert np.abs(have - want).max() > 0.1 * np.abs(want).max()


def test_weight_bias_and_all_epsilons_are_scaled() -> None:
    before, after = tower(), scaled(tower(), "head.cls_tower.0.conv/*:3")
    for name, factor in (("weight", 8), ("bias", 8), ("ones", 1), ("zeros", 1)):
        (have,) = [numpy_helper.to_array(entry) for entry in after.graph.initializer if entry.name == name]
        (want,) = [numpy_helper.to_array(entry) for entry in before.graph.initializer if entry.name == name]
        np.testing.assert_array_equal(have * factor, want)
    epsilons = [a.f for node in after.graph.node for a in node.attribute if a.name == "epsilon"]
    assert epsilons == [np.float32(1e-5) / 64] * 2


@pytest.mark.parametrize(
    "extra",
    [
        "other = Relu (c2)",
        "other = Conv (x, weight)",
        "other = Abs (weight)",
        "other = Add (r2, r2)",
        "other = Abs (bias)",
    ],
)
def test_what_else_sees_the_scale_forbids_it(extra: str) -> None:
    assert len(list(scalable_groups(ir.from_proto(tower()).graph))) == 1
    graph = tower(extra)
    assert list(scalable_groups(ir.from_proto(graph).graph)) == []
    with pytest.raises(ConfigError, match="a scale would change what the model computes"):
        scaled(graph, "head.cls_tower.0.conv/*:3")


def test_a_scale_of_one_level_alone_is_refused() -> None:
    with pytest.raises(ConfigError, match="whole groups of convolutions that share a weight"):
        scaled(tower(), "head.cls_tower.0.conv/Conv_c1:3")


def test_a_scale_that_loses_bits_is_refused() -> None:
    graph = tower()
    (weight,) = [entry for entry in graph.graph.initializer if entry.name == "weight"]
    array = numpy_helper.to_array(weight) * np.float32(2.0**-126)
    weight.CopyFrom(numpy_helper.from_array(array, "weight"))
    with pytest.raises(ConfigError, match="loses bits of weight"):
        scaled(graph, "head.cls_tower.0.conv/*:12")


def test_the_towers_of_an_exported_model_can_be_scaled(slim_onnx: Path) -> None:
    groups = list(scalable_groups(ir.from_proto(onnx.load(str(slim_onnx))).graph))
    assert {group.pattern for group in groups} == {
        f"head.{tower}.{i}.conv/*" for tower in ("cls_tower", "box_tower") for i in range(4)
    }
    assert {(len(group.convolutions), len(group.norms)) for group in groups} == {(5, 5)}
