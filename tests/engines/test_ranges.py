"""The range check: what it measures, what it does about it, and what it refuses."""

from pathlib import Path

import numpy as np
import onnx
import onnx.inliner
import onnx.parser
import onnxruntime
import pytest
from onnx import numpy_helper
from PIL import Image

from condinst_deploy.contract import INPUTS, MANIFEST_KEY, NetworkInputs
from condinst_deploy.contract.engine_ranges import CheckedRanges
from condinst_deploy.contract.precision import Precision
from condinst_deploy.errors import EngineError, ImageError, MissingFileError
from condinst_deploy.support.validation import typed
from condinst_engines.build_files import EngineFiles
from condinst_engines.mixed_precision import converted
from condinst_engines.onnx_input import manifest_of as manifest_in
from condinst_engines.precision_policy import Policy
from condinst_engines.ranges.check import RangeCheck, block_of
from condinst_engines.ranges.decide import Setting
from condinst_engines.ranges.magnitudes import Measurement
from condinst_engines.ranges.range_images import RangeImages
from condinst_engines.ranges.rounded_agreement import Found, found_of
from condinst_engines.rounding import rounded
from condinst_export.quantization.calibration_images import InputsHash
from tests.support.models import SLIM, manifest_of, noise_image

LIMIT = 65504 / 4


def with_weight(graph: onnx.ModelProto, name: str, factor: float) -> onnx.ModelProto:
    changed = onnx.ModelProto()
    changed.CopyFrom(graph)
    (entry,) = [entry for entry in changed.graph.initializer if entry.name == name]
    entry.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(entry) * np.float32(factor), name))
    return changed


def checked(
    graph: onnx.ModelProto, precision: Precision = "float16", user: Policy | None = None, spare: str = "bf16"
) -> tuple[Policy, CheckedRanges]:
    images = RangeImages(manifest_in(graph, Path("small.onnx")))
    setting = Setting(precision, user or Policy(), spare)  # type: ignore[arg-type]
    return RangeCheck(graph, images, setting).run()


def half_graph(graph: onnx.ModelProto, policy: Policy | None = None) -> onnx.ModelProto:
    return onnx.inliner.inline_local_functions(converted(graph, "float16", policy))


def one_batch() -> NetworkInputs:
    pixels = noise_image(0, 64, 96).transpose(2, 0, 1)[None]
    return NetworkInputs(np.ascontiguousarray(pixels), np.array([[64, 96]], dtype=np.int32))


def run(graph: onnx.ModelProto, batch: NetworkInputs, *names: str) -> list[np.ndarray]:
    own = onnx.ModelProto()
    own.CopyFrom(graph)
    own.graph.output.extend(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in names)
    session = onnxruntime.InferenceSession(own.SerializeToString(), providers=["CPUExecutionProvider"])
    found: list[np.ndarray] = session.run(list(names), dict(zip(INPUTS, batch, strict=True)))
    return found


@pytest.mark.parametrize("rounding", [True, False])
def test_magnitudes_are_those_of_the_float32_graph(small_graph: onnx.ModelProto, rounding: bool) -> None:
    measurement, batch = Measurement(half_graph(small_graph), rounding=rounding), one_batch()
    measurement.add(batch)
    names = ("first", "active", "second")
    for name, want in zip(names, run(small_graph, batch, *names), strict=True):
        assert measurement.magnitudes.largest[name] == pytest.approx(np.abs(want).max(), rel=5e-3)


def test_magnitudes_beyond_the_type_are_true_without_rounding(small_graph: onnx.ModelProto) -> None:
    graph, batch = with_weight(small_graph, "first_weight", 1e4), one_batch()
    first, second = run(graph, batch, "first", "second")
    exact = Measurement(half_graph(graph), rounding=False)
    exact.add(batch)
    assert np.abs(first).max() > 65504
    assert exact.magnitudes.largest["first"] == pytest.approx(np.abs(first).max(), rel=5e-3)
    assert exact.magnitudes.largest["second"] == pytest.approx(np.abs(second).max(), rel=5e-3)
    overflowed = Measurement(half_graph(graph), rounding=True)
    overflowed.add(batch)
    assert overflowed.magnitudes.largest["first"] == pytest.approx(np.abs(first).max(), rel=5e-3)
    assert overflowed.magnitudes.largest["second"] == np.inf


def test_the_largest_and_the_quietest_image_are_kept(small_graph: onnx.ModelProto) -> None:
    measurement, batch = Measurement(half_graph(small_graph), rounding=True), one_batch()
    dark = NetworkInputs((batch.images // 8).astype(np.uint8), batch.image_sizes)
    for each in (dark, batch, dark):
        measurement.add(each)
    want, quiet = (np.abs(run(small_graph, each, "first")[0]).max() for each in (batch, dark))
    assert measurement.magnitudes.largest["first"] == pytest.approx(want, rel=5e-3)
    assert measurement.magnitudes.quietest["first"] == pytest.approx(quiet, rel=5e-3)


def test_a_graph_within_limits_is_left_as_it_is(small_graph: onnx.ModelProto) -> None:
    policy, ranges = checked(small_graph)
    assert policy == Policy()
    assert ranges.handled == ()
    assert ranges.limit == LIMIT
    assert 0 < ranges.blocks["backbone.first"] < LIMIT
    assert ranges.images == len(RangeImages(manifest_of(SLIM)))
    assert "handled: nothing" in str(ranges)


def found(monkeypatch: pytest.MonkeyPatch, *pairs: int) -> None:
    """Let the graphs have so many of 100 detections, one after the other; the last number stays."""
    left = list(pairs)

    def next_of(*_: object) -> Found:
        return Found(left.pop(0) if len(left) > 1 else left[0], 100)

    monkeypatch.setattr("condinst_engines.ranges.check.found_of", next_of)


def test_a_part_goes_to_float32_where_rounding_alone_loses_detections(
    small_graph: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch
) -> None:
    found(monkeypatch, 90, 98)
    policy, ranges = checked(small_graph)
    assert policy.fp32 == ("backbone*",)
    assert [str(node) for node in ranges.handled] == [
        "backbone* in half keeps only 90.0% of float32's detections: in float32"
    ]
    assert ranges.matched == 0.98
    found(monkeypatch, 90, 98)
    policy, _ = checked(small_graph, user=Policy(half=("backbone.first/*",)))
    assert policy.fp32 == ("head*",)  # the user's line is not overruled
    found(monkeypatch, 96)
    assert checked(small_graph, "bfloat16")[0] == Policy()
    with pytest.raises(
        EngineError, match=r"node backbone\.first/Conv_first and .* only 96 of float32's 100 are matched"
    ):
        checked(small_graph)


def test_detections_without_area_are_not_counted() -> None:
    def outputs(boxes: list[list[float]]) -> dict[str, np.ndarray]:
        count = len(boxes)
        return {
            "num_detections": np.array([count]),
            "boxes": np.array([boxes], dtype=np.float32),
            "scores": np.full((1, count), 0.5, dtype=np.float32),
            "labels": np.zeros((1, count), dtype=np.int64),
        }

    first = [outputs([[0, 0, 10, 10], [5, 5, 9, 5], [20, 20, 40, 40]])]
    second = [outputs([[0, 0, 10, 10], [5, 5, 9.5, 5], [20, 20, 60, 60]])]
    assert found_of(first, second) == Found(1, 2)
    assert found_of(first, second).share == 0.5
    assert found_of([], []).share is None


@pytest.mark.parametrize(("spare", "kind"), [("bf16", "bfloat16"), ("fp32", "float32")])
def test_nodes_around_a_large_tensor_are_moved_by_name(small_graph: onnx.ModelProto, spare: str, kind: str) -> None:
    graph = with_weight(small_graph, "first_weight", 100)
    batch = one_batch()
    first, second = run(graph, batch, "first", "second")
    assert LIMIT < np.abs(first).max() < 65504
    policy, ranges = checked(graph, spare=spare)
    assert {node.node for node in ranges.handled} >= {"backbone.first/Conv_first", "backbone.relu/Relu_active"}
    assert {node.handling for node in ranges.handled} == {kind}
    assert set(getattr(policy, spare)) == {node.node for node in ranges.handled}
    (have,) = run(rounded(half_graph(graph, policy)), batch, "second")
    np.testing.assert_allclose(have, second, atol=0.03 * np.abs(second).max())
    again, more = checked(graph, user=policy, spare=spare)
    assert again == policy
    assert more.handled == ()


def test_an_overflow_hides_nothing_behind_it(small_graph: onnx.ModelProto) -> None:
    graph = with_weight(with_weight(small_graph, "first_weight", 1e5), "second_weight", 1e-5)
    policy, ranges = checked(graph)
    names = {node.node for node in ranges.handled}
    assert {"backbone.first/Conv_first", "backbone.relu/Relu_active", "head.second/Conv_second"} <= names
    assert ranges.blocks.get("head.second", 0.0) < LIMIT
    assert np.isfinite(run(rounded(half_graph(graph, policy)), one_batch(), "second")[0]).all()


NORM = """
    groups = Constant <value: tensor = int64[3] groups_value {0, 4, -1}> ()
    flat = Reshape (first, groups)
    normal = InstanceNormalization <epsilon: float = 0.00001> (flat, ones, zeros)
    sides = Shape (first)
    back = Reshape (normal, sides)
    active = Relu (back)
"""


@pytest.fixture
def with_norm(small_graph: onnx.ModelProto) -> onnx.ModelProto:
    """The small graph with a norm behind its first convolution."""
    body = onnx.parser.parse_graph(f"norm (float[a, b, c, d] first) => (float[a, b, c, d] active) {{{NORM}}}")
    nodes = list(small_graph.graph.node)
    at = next(i for i, node in enumerate(nodes) if node.output[0] == "active")
    for node in body.node:
        node.name = f"backbone.norm/{node.op_type}_{node.output[0]}"
    del small_graph.graph.node[:]
    small_graph.graph.node.extend([*nodes[:at], *body.node, *nodes[at + 1 :]])
    for name, array in (("ones", np.ones(4)), ("zeros", np.zeros(4))):
        small_graph.graph.initializer.append(numpy_helper.from_array(array.astype(np.float32), name))
    onnx.checker.check_model(small_graph, full_check=True)
    return small_graph


def test_a_scale_before_a_norm_comes_first(with_norm: onnx.ModelProto) -> None:
    graph = with_weight(with_norm, "first_weight", 2000)
    policy, ranges = checked(graph)
    (node,) = ranges.handled
    assert (node.node, node.handling) == ("backbone.first/*", "scale")
    assert policy == Policy(scale=(f"backbone.first/*:{node.power}",))
    assert node.magnitude * 2.0**-node.power <= LIMIT < node.magnitude * 2.0 ** (1 - node.power)  # no more than needed
    assert ranges.blocks["backbone.first"] == pytest.approx(node.magnitude * 2.0**-node.power, rel=1e-2)
    (want,), (have,) = (run(g, one_batch(), "second") for g in (graph, rounded(half_graph(graph, policy))))
    np.testing.assert_allclose(have, want, atol=0.01 * np.abs(want).max())


def test_a_scale_that_would_lose_small_weights_is_not_taken(with_norm: onnx.ModelProto) -> None:
    """float16 has nothing below 6e-8, so a weight of 1e-6 next to pixels of 1e11 has to move instead."""
    graph = with_weight(with_norm, "first_weight", 1e-5)
    (cast,) = [node for node in graph.graph.node if node.output[0] == "pixels"]
    cast.output[0] = "raw"
    graph.graph.initializer.append(numpy_helper.from_array(np.array(1e10, dtype=np.float32), "gain"))
    scale = onnx.helper.make_node("Mul", ["raw", "gain"], ["pixels"], name="normalize/Mul_pixels")
    graph.graph.node.insert(1, scale)
    policy, ranges = checked(graph)
    assert policy.scale == ()
    assert "backbone.first/Conv_first" in policy.bf16
    assert {node.handling for node in ranges.handled} == {"bfloat16"}


def test_a_node_that_the_user_keeps_in_half_is_refused_by_name(small_graph: onnx.ModelProto) -> None:
    graph = with_weight(small_graph, "first_weight", 300)
    for user in (Policy(half=("backbone*",)), Policy(fp16=("backbone.first/*",))):
        with pytest.raises(
            EngineError, match=r"node backbone\.first/Conv_first.* reaches .* \[policy\] keeps it there"
        ):
            checked(graph, user=user)


def test_what_float32_does_not_hold_either_is_refused_by_name(small_graph: onnx.ModelProto) -> None:
    graph = with_weight(with_weight(small_graph, "first_weight", 1e30), "second_weight", 1e30)
    with pytest.raises(EngineError, match=r"head\.second/Conv_second.* not finite in float32 either"):
        checked(graph)


def test_weights_that_float16_cannot_hold_are_handled(small_graph: onnx.ModelProto, with_norm: onnx.ModelProto) -> None:
    policy, ranges = checked(with_weight(small_graph, "second_weight", 1e6))
    assert "head.second/Conv_second" in policy.bf16
    policy, ranges = checked(with_weight(with_norm, "first_weight", 1e6))
    assert policy.scale
    assert [node.handling for node in ranges.handled] == ["scale"]


def test_bfloat16_is_checked_with_its_own_limit(small_graph: onnx.ModelProto) -> None:
    policy, ranges = checked(with_weight(small_graph, "first_weight", 1e5), "bfloat16")
    assert policy == Policy()
    assert ranges.limit > 8e37
    assert ranges.blocks["backbone.first"] > 65504


def test_the_ranges_come_back_from_json(small_graph: onnx.ModelProto) -> None:
    import json
    from dataclasses import asdict

    _, ranges = checked(with_weight(small_graph, "first_weight", 300))
    assert typed(json.loads(json.dumps(asdict(ranges))), CheckedRanges) == ranges


def test_blocks_are_parts_of_the_network() -> None:
    assert [block_of(name) for name in ("backbone.layer1.0.conv1/Conv", "fpn/Add", "params/Concat")] == [
        "backbone.layer1",
        "fpn",
        "params",
    ]


def test_the_built_in_set_reaches_levels_of_one_to_a_few_cells() -> None:
    batches = list(RangeImages(manifest_of(SLIM)))
    assert len(batches) == len(RangeImages(manifest_of(SLIM)))
    sizes = {batch.images.shape[2:] for batch in batches}
    cells = {tuple(-(-side // 128) for side in size) for size in sizes}
    assert {(1, 1), (1, 2)} <= cells
    assert max(max(size) for size in sizes) == 224
    for value in (0, 124, 255):  # padding is 0
        assert any(np.isin(batch.images, (0, value)).all() and batch.images.max() == value for batch in batches)


def test_the_hash_is_of_what_the_network_is_given(tmp_path: Path) -> None:
    def digest(*batches: NetworkInputs) -> str:
        taken = InputsHash()
        for batch in batches:
            taken.add(batch)
        return taken.hexdigest()

    one = one_batch()
    other = NetworkInputs(one.images, one.image_sizes - 1)
    assert digest(one) == digest(one_batch())
    assert len({digest(one), digest(other), digest(one, one)}) == 3


def test_a_folder_takes_the_place_of_the_built_in_set(tmp_path: Path, small_graph: onnx.ModelProto) -> None:
    for i in range(3):
        Image.fromarray(noise_image(i, 100, 130)).save(tmp_path / f"{i}.png")
    images = RangeImages(manifest_in(small_graph, Path("small.onnx")), tmp_path)
    assert images.source == tmp_path.name
    own = [batch for batch in images if min(batch.images.shape[2:]) >= 128]
    assert len(own) == 3
    assert len(images) > 3  # small sizes of the same images
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ImageError, match="has no images"):
        len(RangeImages(images.manifest, empty))
    with pytest.raises(MissingFileError, match=r"no folder at .*; expected a folder of images in --calibration"):
        EngineFiles(Path("x.onnx"), calibration=tmp_path / "missing")


def test_a_fixed_shape_is_checked_at_that_shape(small_graph: onnx.ModelProto) -> None:
    from dataclasses import replace

    manifest = replace(manifest_of(SLIM), static_shape=(2, 128, 224))
    assert {batch.images.shape for batch in RangeImages(manifest)} == {(2, 3, 128, 224)}
    assert MANIFEST_KEY in {entry.key for entry in small_graph.metadata_props}
