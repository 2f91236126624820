"""Accuracy of the full-size models in half precision: the references' detections against converted graphs."""

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.inliner
import onnxruntime
import pytest
import torch
from torch.nn.utils.fusion import fuse_conv_bn_eval

from condinst_deploy.contract import InstanceDetections
from condinst_deploy.contract.precision import Precision
from condinst_deploy.evaluation.agreement import Agreement, agreement, merged
from condinst_deploy.imaging.decode import rgb_from
from condinst_deploy.model.checkpoints import load_model
from condinst_deploy.model.condinst import CondInst, Features
from condinst_deploy.model.head import LevelOutputs
from condinst_deploy.runtime.backend import Backend
from condinst_deploy.runtime.onnxruntime_backend import OnnxRuntimeBackend
from condinst_deploy.runtime.torch_backend import TorchBackend
from condinst_engines.mixed_precision import converted
from condinst_engines.onnx_input import manifest_of
from condinst_engines.precision_policy import Policy
from condinst_engines.ranges.check import RangeCheck
from condinst_engines.ranges.decide import Setting
from condinst_engines.ranges.range_images import RangeImages
from condinst_engines.rounding import rounded
from condinst_export.export_options import ExportOptions
from condinst_export.onnx_file import onnx_from_model, with_options
from tests.support.batches import host_batch
from tests.support.models import GOLDEN, GOLDEN_READERS, IMAGES

NAMES = ("coffee", "astronaut")

SLOW = 7200
"""Seconds for a full-size model that runs with one thread on a busy machine."""


@dataclass(frozen=True)
class Target:
    """The least that a precision must keep, at a box IoU of 0.9 and equal labels."""

    matched: float
    median_mask_iou: float

    def check(self, result: Agreement, at_least: int = 200) -> None:
        assert result.reference_count >= at_least
        assert result.matched >= self.matched * result.reference_count, result
        assert np.median(result.mask_ious) >= self.median_mask_iou


FLOAT16, BFLOAT16 = Target(0.97, 0.99), Target(0.90, 0.97)


def found_by(backend: Backend) -> Agreement:
    """The reference's detections of both images, which are the float32 file's to 1e-5, against the backend's."""
    family, parts = backend.manifest.family, []
    for name in NAMES:
        golden = GOLDEN_READERS[family](np.load(GOLDEN / family / f"{name}_seed0.npz"), 0)
        parts.append(agreement(golden, detections(backend, name), min_iou=0.9))
    return merged(parts)


def detections(backend: Backend, name: str) -> InstanceDetections:
    inputs, geometries = host_batch(backend, [rgb_from(IMAGES / f"{name}.png")])
    (found,) = backend.postprocess(backend.forward(inputs), geometries)
    return found


def half_graph(path: str, precision: Any) -> onnx.ModelProto:
    return onnx.inliner.inline_local_functions(converted(onnx.load(path), precision))


@pytest.fixture(scope="module")
def float16(exported_r50: dict[str, Any]) -> onnx.ModelProto:
    return half_graph(exported_r50["path"], "float16")


def test_float16_in_onnx_runtime(float16: onnx.ModelProto) -> None:
    with OnnxRuntimeBackend.from_bytes(float16.SerializeToString(), "float16", "cpu") as backend:
        FLOAT16.check(found_by(backend))


@pytest.fixture(scope="module")
def adelaidet_r50(adelaidet_checkpoint: Path) -> onnx.ModelProto:
    loaded = load_model(adelaidet_checkpoint)
    return onnx_from_model(loaded.model, with_options(loaded.model, loaded.manifest, ExportOptions()))


LEAST_WORK = 0.9
"""Share of the convolutions' work that stays in half types."""


def check_what_a_builder_gets(proto: onnx.ModelProto, precision: Precision, target: Target, at_least: int) -> None:
    images = RangeImages(manifest_of(proto, Path("r50.onnx")))
    policy, ranges = RangeCheck(proto, images, Setting(precision, Policy(), "bf16")).run()
    assert ranges.half_work is not None
    assert ranges.half_work >= LEAST_WORK
    graph = rounded(onnx.inliner.inline_local_functions(converted(proto, precision, policy)))
    with OnnxRuntimeBackend.from_bytes(graph.SerializeToString(), precision, "cpu") as backend:
        target.check(found_by(backend), at_least)


HALVES = [("float16", FLOAT16), ("bfloat16", BFLOAT16)]


@pytest.mark.slow
@pytest.mark.timeout(SLOW)
@pytest.mark.parametrize(("precision", "target"), HALVES)
def test_every_half_tensor_rounded(exported_r50: dict[str, Any], precision: Precision, target: Target) -> None:
    check_what_a_builder_gets(onnx.load(exported_r50["path"]), precision, target, 200)


@pytest.mark.slow
@pytest.mark.timeout(SLOW)
@pytest.mark.parametrize(("precision", "target"), HALVES)
def test_every_half_tensor_of_adelaidets_model_rounded(
    adelaidet_r50: onnx.ModelProto, precision: Precision, target: Target
) -> None:
    check_what_a_builder_gets(adelaidet_r50, precision, target, 140)


@pytest.mark.slow
@pytest.mark.timeout(SLOW)
def test_float16_gives_no_nan_or_infinity_in_any_tensor(float16: onnx.ModelProto, exported_r50: dict[str, Any]) -> None:
    """Every floating tensor of the graph is reduced to a sum, which is finite only if all its elements are."""
    graph = rounded(float16)
    typed = onnx.shape_inference.infer_shapes(graph)
    floating = [v.name for v in typed.graph.value_info if v.type.tensor_type.elem_type == onnx.TensorProto.FLOAT]
    weights = {entry.name for entry in graph.graph.initializer}
    names = [name for name in floating if name not in weights]
    assert len(names) > 800
    for i, name in enumerate(names):
        graph.graph.node.append(onnx.helper.make_node("ReduceSumSquare", [name], [f"sum_{i}"], keepdims=0))
        graph.graph.output.append(onnx.helper.make_tensor_value_info(f"sum_{i}", onnx.TensorProto.FLOAT, []))
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    with OnnxRuntimeBackend.load(Path(exported_r50["path"]), "cpu") as backend:
        inputs, _ = host_batch(backend, [rgb_from(IMAGES / "coffee.png")])
    sums = session.run([f"sum_{i}" for i in range(len(names))], inputs._asdict())
    assert [name for name, value in zip(names, sums, strict=True) if not np.isfinite(value)] == []


class BFloat16Model(CondInst):
    """The policy once more, in PyTorch: modules in bfloat16, coordinates and all from the scores on in float32."""

    def features(self, normalized: torch.Tensor) -> Features:
        levels, mask_feats, _ = super().features(normalized.to(torch.bfloat16))
        wide = [LevelOutputs(*(tensor.float() for tensor in level)) for level in levels]
        return Features(wide, mask_feats.float())


@pytest.mark.slow
@pytest.mark.timeout(SLOW)
def test_bfloat16_modules_of_pytorch(mmdet_checkpoint: Path) -> None:
    """Independent of the conversion and of ONNX Runtime; the mask head's layers alone are not rounded here."""
    loaded = load_model(mmdet_checkpoint)
    model = BFloat16Model(loaded.model.config)
    model.load_state_dict(loaded.model.state_dict())
    for part in (model.backbone, model.fpn, model.head, model.mask_branch):
        fold_norms(part)
        part.to(torch.bfloat16)
    backend = TorchBackend(type(loaded)(model.eval(), loaded.manifest, "in bfloat16"), torch.device("cpu"))
    BFLOAT16.check(found_by(backend))


def fold_norms(module: torch.nn.Module) -> None:
    """Write each batch norm into the convolution before it, as the exporter does."""
    children = list(module.named_children())
    for (_, before), (name, child) in pairwise(children):
        if isinstance(before, torch.nn.Conv2d) and isinstance(child, torch.nn.BatchNorm2d):
            fused = fuse_conv_bn_eval(before.eval(), child.eval())
            before.bias, before.weight = fused.bias, fused.weight
            setattr(module, name, torch.nn.Identity())
    for _, child in children:
        fold_norms(child)
