"""Verification of an exported file: ONNX Runtime against the PyTorch model, detection by detection."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path

import numpy as np
import onnx
import torch

from condinst_deploy.contract import ImageGeometry, InstanceDetections, ModelManifest, NetworkInputs
from condinst_deploy.errors import VerificationError
from condinst_deploy.evaluation.agreement import ONNX_TOLERANCE, Agreement, agreement, merged
from condinst_deploy.imaging.decode import RGBArray, rgb_from
from condinst_deploy.model.candidates import ranked_by
from condinst_deploy.model.checkpoints import LoadedModel
from condinst_deploy.model.condinst import CondInst
from condinst_deploy.model.fixed_slots import SCORE_THRESHOLD
from condinst_deploy.runtime.backend import Backend
from condinst_deploy.runtime.onnxruntime_backend import OnnxRuntimeBackend
from condinst_deploy.runtime.preprocessing.batch import network_inputs
from condinst_deploy.runtime.torch_backend import TorchBackend

FEWEST, MOST = 10, 60
"""Number of (location, class) pairs that may pass when the threshold is lowered to get detections."""


@dataclass(frozen=True, eq=False)
class Case:
    """Images at a size, run as one batch."""

    name: str
    images: Sequence[RGBArray]
    geometries: Sequence[ImageGeometry]
    batch: int | None  # a fixed batch is filled up with blank images

    @property
    def inputs(self) -> NetworkInputs:
        """The batch, padded to the largest image."""
        return network_inputs(self.images, self.geometries, self.batch)


@dataclass(frozen=True, eq=False)
class CaseResult:
    """Agreement of ONNX Runtime and PyTorch on a case, and on each of its images."""

    name: str
    shape: tuple[int, ...]  # (B, 3, H, W)
    score_threshold: float
    agreement: Agreement


@dataclass(frozen=True, eq=False)
class Verification:
    """All cases; one in which the model finds little stands here twice, the second time at a lower threshold."""

    results: tuple[CaseResult, ...]

    @property
    def total(self) -> Agreement:
        """All cases together."""
        return merged(result.agreement for result in self.results)


def verify_onnx(
    proto: onnx.ModelProto, model: CondInst, manifest: ModelManifest, on_case: Callable[[CaseResult], None]
) -> Verification:
    """Compare the file with the model at several sizes, singly and in a batch of different images.

    In a batch every image must also get what it gets alone at the same padded size. A case in which the
    model finds little, because little passes the threshold, is compared once more with the threshold lowered, on
    both sides alike.

    Args:
        proto: the exported file.
        model: the PyTorch model that it was exported from.
        manifest: the file's manifest.
        on_case: called with each result.

    Raises:
        VerificationError: the set of detections differs, or a pair differs by more than `ONNX_TOLERANCE`.
    """
    results = []
    for result in _results(proto, model, manifest):
        on_case(result)
        results.append(result)
        if not result.agreement.within(ONNX_TOLERANCE):
            raise VerificationError(
                f"ONNX Runtime disagrees with PyTorch on {result.name} {result.shape}: {result.agreement};"
                f" expected the same set, {ONNX_TOLERANCE}. No file was written"
            )
    verification = Verification(tuple(results))
    if verification.total.matched == 0:
        raise VerificationError(
            "the model finds nothing in the test images at any threshold, so nothing could be compared;"
            " is it trained? No file was written"
        )
    return verification


def _results(proto: onnx.ModelProto, model: CondInst, manifest: ModelManifest) -> Iterator[CaseResult]:
    own = manifest.selection.score_threshold
    few = []
    reference, exported = _backends(proto, model, manifest)
    with reference, exported:
        for case in _cases(manifest):
            result = _compare(case, reference, exported, own)
            yield result
            if result.agreement.reference_count < FEWEST:
                few.append(case)
    for case in few:
        threshold = _threshold_for_some(model, case)
        if threshold >= own:  # enough pairs pass already, and overlap: the comparison before was all there is
            continue
        reference, exported = _backends(*_with_threshold(proto, model, threshold), manifest)
        with reference, exported:
            yield _compare(case, reference, exported, threshold)


def _cases(manifest: ModelManifest) -> Iterator[Case]:
    """The images that come with this package, at sizes for a dynamic or for the fixed shape."""
    folder = Path(str(files("condinst_export") / "images"))
    coffee, astronaut = (rgb_from(folder / f"{name}.jpg") for name in ("coffee", "astronaut"))
    static = manifest.static_shape
    if static is not None:
        images = [coffee, astronaut][: static[0]]
        yield Case("at the fixed shape", images, [_geometry(i, manifest, None, static[1:]) for i in images], static[0])
        return
    portrait = np.ascontiguousarray(coffee.transpose(1, 0, 2))
    for name, images, side in (
        ("square image", [astronaut], 320),
        ("portrait image", [portrait], 256),
        ("smallest image", [coffee], 32),
        ("two different images", [coffee, astronaut], 320),
        ("image at the model's own size", [coffee], None),
    ):
        yield Case(name, images, [_geometry(image, manifest, side) for image in images], None)


def _geometry(
    image: RGBArray, manifest: ModelManifest, side: int | None, canvas: tuple[int, int] | None = None
) -> ImageGeometry:
    preprocessing = manifest.preprocessing
    if side is not None:
        preprocessing = replace(preprocessing, short_side=side, long_side=max(side, preprocessing.long_side))
    return ImageGeometry.of((image.shape[0], image.shape[1]), preprocessing, canvas)


def _backends(proto: onnx.ModelProto, model: CondInst, manifest: ModelManifest) -> tuple[Backend, Backend]:
    reference = TorchBackend(LoadedModel(model, manifest, "the model being exported"), torch.device("cpu"))
    return reference, OnnxRuntimeBackend.from_bytes(proto.SerializeToString(), "the exported file", "cpu")


def _compare(case: Case, reference: Backend, exported: Backend, threshold: float) -> CaseResult:
    inputs = case.inputs
    want = _detections(reference, inputs, case.geometries)
    have = _detections(exported, inputs, case.geometries)
    parts = [agreement(a, b) for a, b in zip(want, have, strict=True)]
    if len(case.images) > 1 and case.batch is None:
        for i, geometry in enumerate(case.geometries):
            single = NetworkInputs(inputs.images[i : i + 1], inputs.image_sizes[i : i + 1])
            (alone,) = _detections(exported, single, [geometry])
            parts.append(agreement(alone, have[i]))
    return CaseResult(case.name, inputs.images.shape, threshold, merged(parts))


def _detections(
    backend: Backend, inputs: NetworkInputs, geometries: Sequence[ImageGeometry]
) -> list[InstanceDetections]:
    outputs = backend.forward(inputs).on_host()
    if not all(np.isfinite(output).all() for output in outputs):
        raise VerificationError(
            f"the {backend.name} backend gives NaN or infinity for a {inputs.images.shape} input;"
            " the model's weights overflow in float32. No file was written"
        )
    return backend.postprocess(outputs, geometries)


def _threshold_for_some(model: CondInst, case: Case) -> float:
    """A threshold in the widest gap between what it is compared with of neighbouring ranks.

    In the widest, so that rounding does not decide which pairs pass.
    """
    images, sizes = (torch.from_numpy(array) for array in case.inputs)
    with torch.no_grad():
        levels = model.features(model.normalize(images, sizes)).levels
    pairs = torch.cat([ranked_by(level, model.config.selection).flatten() for level in levels])
    ranked = pairs.topk(min(MOST, len(pairs))).values[FEWEST - 1 :]
    widest = int((ranked[:-1] - ranked[1:]).argmax())
    return float((ranked[widest] + ranked[widest + 1]) / 2)


def _with_threshold(proto: onnx.ModelProto, model: CondInst, threshold: float) -> tuple[onnx.ModelProto, CondInst]:
    """Copies of the file and of the model that differ in the threshold alone."""
    lowered = onnx.ModelProto()
    lowered.CopyFrom(proto)
    (initializer,) = [entry for entry in lowered.graph.initializer if entry.name == SCORE_THRESHOLD]
    initializer.CopyFrom(onnx.numpy_helper.from_array(np.array(threshold, dtype=np.float32), SCORE_THRESHOLD))
    selection = replace(model.config.selection, score_threshold=float(np.float32(threshold)))
    config = replace(model.config, selection=selection)
    copy = CondInst(config)
    copy.load_state_dict(model.state_dict())
    return lowered, copy.eval()
