"""Exported files, functions inlined, through NVIDIA's parser and builder, without a GPU."""

from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from condinst_deploy.errors import EngineError
from condinst_engines.build import Profile, image_profile, plan_from_onnx
from tests.models import SLIM_KINDS, SlimFiles

SERVER = image_profile((1, 3, 320, 320), (1, 3, 800, 1344), (8, 3, 1344, 1344))


@pytest.mark.parametrize("kind", SLIM_KINDS)
def test_a_dynamic_file_builds_for_batch_1_to_8_and_sides_320_to_1344(kind: str, slim_files: SlimFiles) -> None:
    _, exported = slim_files(kind)
    plan = plan_from_onnx(onnx.load(str(exported)), [SERVER])
    assert 0.8 * exported.stat().st_size < len(plan)


def test_a_node_that_the_parser_does_not_know_is_named() -> None:
    graph = helper.make_graph(
        [helper.make_node("Frobnicate", ["x"], ["y"], name="the_odd_one", domain="elsewhere")],
        "unknown",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("elsewhere", 1)]
    with pytest.raises(EngineError, match="Frobnicate"):
        plan_from_onnx(helper.make_model(graph, opset_imports=opsets, ir_version=10), [])


def test_an_impossible_profile_is_an_error_with_the_builders_words(slim_onnx: Path) -> None:
    upside_down = image_profile((8, 3, 1344, 1344), (1, 3, 800, 1344), (1, 3, 320, 320))
    with pytest.raises(EngineError):
        plan_from_onnx(onnx.load(str(slim_onnx)), [upside_down])


def test_a_capability_that_does_not_exist_is_an_error(slim_onnx: Path) -> None:
    with pytest.raises(EngineError, match="12345"):
        plan_from_onnx(onnx.load(str(slim_onnx)), [SERVER], ["12345"])


def test_a_profile_of_images_gives_the_sizes_input_the_same_batch() -> None:
    assert Profile(
        {"images": (1, 3, 32, 32), "image_sizes": (1, 2)},
        {"images": (2, 3, 64, 64), "image_sizes": (2, 2)},
        {"images": (4, 3, 96, 96), "image_sizes": (4, 2)},
    ) == image_profile((1, 3, 32, 32), (2, 3, 64, 64), (4, 3, 96, 96))
