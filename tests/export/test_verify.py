"""Verification passes what is right, for few classes too, and catches what is broken."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from condinst_deploy.contract import ModelManifest, Selection
from condinst_deploy.errors import VerificationError
from condinst_deploy.model.checkpoints import load_model
from condinst_deploy.model.condinst import CondInst
from condinst_deploy.model.config import CondInstConfig
from condinst_deploy.model.fixed_slots import SCORE_THRESHOLD
from condinst_export.onnx_file import ExportOptions, onnx_from_model, with_options
from condinst_export.verify import CaseResult, verify_onnx
from tests.support.models import SLIM, SLIM_KINDS, SlimFiles, manifest_of, seeded_model

ONE_CLASS = replace(SLIM, num_classes=1, depth=18, mask_channels=4, dynamic_channels=6)
FIXED = replace(SLIM, selection=Selection(max_detections=7, candidates_per_level=50))


def ignore(_result: CaseResult) -> None:
    pass


def exported(config: CondInstConfig, options: ExportOptions) -> tuple[onnx.ModelProto, CondInst, ModelManifest]:
    model = seeded_model(config)
    manifest = with_options(model, manifest_of(config), options)
    return onnx_from_model(model, manifest), model, manifest


@pytest.fixture(scope="module")
def three_classes(slim_checkpoint: Path, slim_onnx: Path) -> tuple[onnx.ModelProto, CondInst, ModelManifest]:
    loaded = load_model(slim_checkpoint)
    return onnx.load(str(slim_onnx)), loaded.model, loaded.manifest


def test_three_classes_verify(three_classes: tuple[onnx.ModelProto, CondInst, ModelManifest]) -> None:
    shown: list[CaseResult] = []
    verification = verify_onnx(*three_classes, shown.append)
    assert list(verification.results) == shown
    assert verification.total.reference_count > 20
    assert all(result.agreement.reference_count > 0 for result in verification.results[5:])
    own = three_classes[2].selection.score_threshold
    assert [result.score_threshold == own for result in shown[:5]] == [True] * 5
    assert all(result.score_threshold < own for result in shown[5:])


@pytest.mark.parametrize("kind", [kind for kind in SLIM_KINDS if kind != "mmdet"])
def test_every_kind_of_graph_verifies(kind: str, slim_files: SlimFiles) -> None:
    checkpoint, exported_file = slim_files(kind)
    loaded, proto = load_model(checkpoint), onnx.load(str(exported_file))
    verification = verify_onnx(proto, loaded.model, loaded.manifest, ignore)
    assert verification.total.reference_count > 20
    # the semantic head is for training alone
    assert not [entry.name for entry in proto.graph.initializer if "semantic" in entry.name]


def test_a_file_by_another_familys_rules_is_caught(
    three_classes: tuple[onnx.ModelProto, CondInst, ModelManifest],
) -> None:
    proto, model, manifest = three_classes
    selection = replace(model.config.selection, family="adelaidet")
    preprocessing = replace(model.config.preprocessing, family="adelaidet")
    other = CondInst(replace(model.config, selection=selection, preprocessing=preprocessing))
    other.load_state_dict(model.state_dict())
    claimed = replace(manifest, family="adelaidet", selection=selection, preprocessing=preprocessing)
    with pytest.raises(VerificationError, match="disagrees with PyTorch"):
        verify_onnx(proto, other.eval(), claimed, ignore)


def test_one_class_basic_blocks_and_narrow_mask_head_verify() -> None:
    verification = verify_onnx(*exported(ONE_CLASS, ExportOptions()), ignore)
    assert verification.total.reference_count > 0


def test_a_fixed_shape_with_few_slots_verifies() -> None:
    proto, model, manifest = exported(FIXED, ExportOptions(static_shape=(2, 128, 224)))
    verification = verify_onnx(proto, model, manifest, ignore)
    (result,) = verification.results  # few slots are no reason to compare again: enough passes the threshold
    assert result.shape == (2, 3, 128, 224)
    assert verification.total.reference_count > 0
    assert [d.dim_value for d in proto.graph.output[-1].type.tensor_type.shape.dim] == [2, 7, 16, 28]


def shift_coordinates(proto: onnx.ModelProto) -> None:
    """Pixel centres at 8i instead of 8i + 4."""
    (function,) = [f for f in proto.functions if f.name == "DynamicMaskHead"]
    (node,) = [n for n in function.node if n.output[0] == "dmh_xy_half"]
    node.attribute[0].t.CopyFrom(onnx.numpy_helper.from_array(np.array(0, dtype=np.float32), "dmh_xy_half_value"))


def loosen_nms(proto: onnx.ModelProto) -> None:
    (node,) = [n for n in proto.graph.node if n.op_type == "SelectInstances"]
    (attribute,) = [a for a in node.attribute if a.name == "nms_iou"]
    attribute.f = 0.2


def scale_scores(proto: onnx.ModelProto) -> None:
    (node,) = [n for n in proto.graph.node if "scores" in n.output]
    factor = onnx.numpy_helper.from_array(np.array(1.001, dtype=np.float32), "wrong_factor")
    proto.graph.initializer.append(factor)
    node.output[list(node.output).index("scores")] = "right_scores"
    proto.graph.node.append(onnx.helper.make_node("Mul", ["right_scores", "wrong_factor"], ["scores"]))


def swap_images(proto: onnx.ModelProto) -> None:
    """Instances of one image under another, as an exporter for batch 1 gets it wrong."""
    (node,) = [n for n in proto.graph.node if "boxes" in n.output]
    node.output[list(node.output).index("boxes")] = "right_boxes"
    reversed_rows = ["right_boxes", "wrong_from", "wrong_to", "wrong_axis", "wrong_step"]
    for name, value in zip(reversed_rows[1:], (-1, -(2**31), 0, -1), strict=True):
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.array([value]), name))
    proto.graph.node.append(onnx.helper.make_node("Slice", reversed_rows, ["boxes"]))


@pytest.mark.parametrize("damage", [shift_coordinates, loosen_nms, scale_scores, swap_images])
def test_a_broken_file_is_caught(
    three_classes: tuple[onnx.ModelProto, CondInst, ModelManifest], damage: Callable[[onnx.ModelProto], None]
) -> None:
    proto, model, manifest = three_classes
    broken = onnx.ModelProto()
    broken.CopyFrom(proto)
    damage(broken)
    with pytest.raises(VerificationError, match="disagrees with PyTorch"):
        verify_onnx(broken, model, manifest, ignore)


def test_a_model_that_finds_nothing_is_compared_at_a_lower_threshold(
    three_classes: tuple[onnx.ModelProto, CondInst, ModelManifest],
) -> None:
    proto, model, manifest = three_classes
    blind = onnx.ModelProto()
    blind.CopyFrom(proto)
    (initializer,) = [entry for entry in blind.graph.initializer if entry.name == SCORE_THRESHOLD]
    initializer.CopyFrom(onnx.numpy_helper.from_array(np.array(1, dtype=np.float32), SCORE_THRESHOLD))
    selection = replace(model.config.selection, score_threshold=1.0)
    blind_model = CondInst(replace(model.config, selection=selection))
    blind_model.load_state_dict(model.state_dict())
    blind_manifest = replace(manifest, selection=selection)
    verification = verify_onnx(blind, blind_model.eval(), blind_manifest, ignore)
    assert [result.score_threshold < 1 for result in verification.results] == [False] * 5 + [True] * 5
    assert all(result.agreement.reference_count > 0 for result in verification.results[5:])
    shift_coordinates(blind)
    with pytest.raises(VerificationError, match="disagrees with PyTorch"):
        verify_onnx(blind, blind_model.eval(), blind_manifest, ignore)
