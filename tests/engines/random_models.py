"""Random models for the range check: exported graphs with weights drawn anew, some convolutions' scaled up."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import onnx.inliner
from onnx import numpy_helper

from condinst_deploy.contract import InstanceDetections
from condinst_deploy.contract.engine_ranges import CheckedRanges
from condinst_deploy.data.shapes_dataset import ShapesConfig, image_of, scene_of
from condinst_deploy.errors import EngineError
from condinst_deploy.evaluation.agreement import Agreement, agreement, merged
from condinst_deploy.imaging.decode import RGBArray
from condinst_deploy.model.fixed_slots import SCORE_THRESHOLD
from condinst_deploy.runtime.onnxruntime_backend import OnnxRuntimeBackend
from condinst_deploy.runtime.predictor import Predictor
from condinst_engines.mixed_precision import converted
from condinst_engines.onnx_input import manifest_of
from condinst_engines.precision_policy import Policy
from condinst_engines.ranges.check import RangeCheck
from condinst_engines.ranges.decide import Setting
from condinst_engines.ranges.range_images import RangeImages
from condinst_engines.rounding import rounded
from tests.support.models import noise_image

LARGEST_FACTOR = 30.0
FEWEST_DETECTIONS = 20
MIN_BOX_IOU = 0.9


@dataclass(frozen=True)
class Outcome:
    """Outcome of one model: built, with its agreement with float32, or refused."""

    ranges: CheckedRanges | None
    agreement: Agreement | None
    refusal: str

    @property
    def matched(self) -> float:
        """Share of float32's detections that the rounded graph has, too."""
        assert self.agreement is not None
        return self.agreement.matched / self.agreement.reference_count


def random_model(base: onnx.ModelProto, seed: int) -> onnx.ModelProto:
    """`base` with the weights of all convolutions drawn anew, at their own deviations; one to five are scaled up.

    Factors are between 1 and 30, evenly distributed over their logarithm.
    """
    rng = np.random.default_rng(seed)
    proto = onnx.ModelProto()
    proto.CopyFrom(base)
    weights = sorted({node.input[1] for node in proto.graph.node if node.op_type == "Conv"})
    scaled = rng.choice(len(weights), size=int(rng.integers(1, 6)), replace=False)
    factors = dict.fromkeys(weights, 1.0)
    factors |= {weights[i]: float(np.exp(rng.uniform(0, np.log(LARGEST_FACTOR)))) for i in scaled}
    for entry in proto.graph.initializer:
        if entry.name in factors:
            old = numpy_helper.to_array(entry)
            new = rng.standard_normal(old.shape) * old.std() * factors[entry.name]
            entry.CopyFrom(numpy_helper.from_array(new.astype(np.float32), entry.name))
    return proto


def unseen_images() -> list[RGBArray]:
    """Images that the range check's built-in set has not: other shapes, other noise."""
    config = ShapesConfig()
    shapes = [image_of(scene_of(config, "val", i), config, "val", i) for i in range(2)]
    return [*shapes, noise_image(77, 240, 320), noise_image(78, 300, 200)]


def detections(proto: onnx.ModelProto, images: Sequence[RGBArray]) -> list[InstanceDetections]:
    """Of each image, in ONNX Runtime."""
    with OnnxRuntimeBackend.from_bytes(proto.SerializeToString(), "a random model", "cpu") as backend:
        return [found for image in images for found in Predictor(backend)([image])]


def finding_enough(proto: onnx.ModelProto, images: Sequence[RGBArray]) -> list[InstanceDetections]:
    """float32's detections, the threshold lowered in place until there are enough."""
    (threshold,) = [entry for entry in proto.graph.initializer if entry.name == SCORE_THRESHOLD]
    for value in (0.05, 0.01, 1e-3, 1e-4, 0.0):
        threshold.CopyFrom(numpy_helper.from_array(np.array(value, dtype=np.float32), SCORE_THRESHOLD))
        found = detections(proto, images)
        if sum(map(len, found)) >= FEWEST_DETECTIONS:
            break
    return found


def outcome(proto: onnx.ModelProto, spare: Literal["bf16", "fp32"] = "bf16") -> Outcome:
    """Check a model's ranges for float16, and compare the rounded graph that comes of it with float32."""
    images = unseen_images()
    reference = finding_enough(proto, images)
    setting = Setting("float16", Policy(), spare)
    try:
        policy, ranges = RangeCheck(proto, RangeImages(manifest_of(proto, Path("random.onnx"))), setting).run()
    except EngineError as e:
        return Outcome(None, None, str(e))
    graph = rounded(onnx.inliner.inline_local_functions(converted(proto, "float16", policy)))
    pairs = zip(reference, detections(graph, images), strict=True)
    return Outcome(ranges, merged(agreement(a, b, MIN_BOX_IOU) for a, b in pairs), "")
