"""An exported file becomes an INT8 file for ONNX Runtime on CPUs: calibrate, quantise, compare, describe."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

import onnx
import onnx_ir as ir

from condinst_deploy.contract import MANIFEST_KEY, ModelManifest
from condinst_deploy.contract.onnx_names import PREDICTORS
from condinst_deploy.contract.quantization import HeldOutAgreement, Quantization
from condinst_deploy.errors import ConfigError, VerificationError
from condinst_deploy.shown_text import counted
from condinst_export.quantization import u8s8
from condinst_export.quantization.calibration_images import CalibrationImages
from condinst_export.quantization.calibration_options import CalibrationOptions
from condinst_export.quantization.histograms import collected
from condinst_export.quantization.quantized_agreement import INT8_TOLERANCE, held_out_agreement
from condinst_export.quantization.thresholds import range_of

OnCount = Callable[[str, int, int], None]
"""Takes the name of a stage, how many images or tensors of it are done, and how many there are."""


@dataclass(frozen=True)
class Int8Reports:
    """Functions that are called while a file is quantised."""

    on_stage: Callable[[str], None] = lambda stage: None  # what begins now
    on_progress: OnCount = lambda what, done, of: None

    def stage(self, what: str, count: int) -> Callable[[int], None]:
        """Begin a stage of so many parts; what is returned takes how many are done."""
        self.on_stage(what)
        self.on_progress(what, 0, count)
        return lambda done: self.on_progress(what, done, count)


def int8_from_float32(
    proto: onnx.ModelProto,
    manifest: ModelManifest,
    calibration: CalibrationOptions,
    keep_float: tuple[str, ...] = (),
    reports: Int8Reports | None = None,
) -> tuple[onnx.ModelProto, ModelManifest]:
    """Quantise an exported file, and verify it on images that were held out.

    Args:
        proto: the float32 file; it is left as it is.
        manifest: inside it.
        calibration: images and method.
        keep_float: patterns of convolutions that stay in float32 besides those that always do.
        reports: functions that are called while it runs.

    Returns:
        The INT8 file, and the manifest inside it.

    Raises:
        ConfigError: a pattern matches no convolution, or none is left to quantise.
        ExportError: a tensor is not finite.
        ImageError: an image cannot be read.
        VerificationError: the detections differ by more than `INT8_TOLERANCE`.
    """
    reports, images = reports or Int8Reports(), CalibrationImages(calibration.folder, manifest, calibration.images)
    kept, model = (*PREDICTORS, *keep_float), ir.from_proto(proto)
    chosen = quantized_convolutions(model, keep_float)
    count, others = len(images.calibration), len(images.held_out)
    on_image = reports.stage(f"calibrating on {counted(count, 'image')}", count)
    tensors = u8s8.activations(model, kept)
    histograms = collected(proto, tensors, images.calibration, calibration.method, on_image)
    on_tensor = reports.stage(f"choosing ranges of {counted(len(tensors), 'tensor')}", len(tensors))
    ranges = {}
    for name, entry in histograms.tensors.items():
        ranges[name] = range_of(entry, calibration.method, "uint8")
        on_tensor(len(ranges))
    quantized = u8s8.quantized(proto, ranges, kept)
    # both graphs run on each of them
    on_image = reports.stage(f"comparing with float32 on {counted(others, 'other image')}", 2 * others)
    agreement = held_out_agreement(proto, quantized, images.held_out, on_image)
    _check_agreement(agreement)
    record = Quantization(
        scheme="uint8 activations, int8 weights",
        method=calibration.method,
        source=calibration.folder.resolve().name,
        images=histograms.images,
        images_sha256=histograms.images_sha256,
        convolutions=len(chosen),
        kept_float=kept,
        agreement=agreement,
    )
    described = replace(manifest, precision="int8", quantization=record)
    _describe(quantized, described)
    return quantized, described


def quantized_convolutions(model: ir.Model, keep_float: tuple[str, ...] = ()) -> list[ir.Node]:
    """The convolutions of a float32 file that are quantised.

    Raises:
        ConfigError: a pattern matches no convolution, or none is left to quantise.
    """
    _check_patterns(model, keep_float)
    chosen = u8s8.convolutions(model, (*PREDICTORS, *keep_float))
    if not chosen:
        raise ConfigError("--keep-float leaves no convolution to quantise; leave it out, or export without --int8")
    return chosen


def _check_patterns(model: ir.Model, keep_float: tuple[str, ...]) -> None:
    names = [node.name or "" for node in u8s8.convolutions(model, ())]
    for pattern in keep_float:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise ConfigError(
                f"--keep-float {pattern!r} matches no convolution; names look like {names[0]!r}, and condinst-inspect"
                " --json lists them"
            )


def _check_agreement(agreement: HeldOutAgreement) -> None:
    if not INT8_TOLERANCE.holds(agreement):
        raise VerificationError(
            f"the INT8 graph is too far from the float32 graph: {agreement}; expected {INT8_TOLERANCE}. Calibrate on"
            " images of the kind that the model sees, or keep layers in float32 (--keep-float). No file was written"
        )


def _describe(proto: onnx.ModelProto, manifest: ModelManifest) -> None:
    for entry in proto.metadata_props:
        if entry.key == MANIFEST_KEY:
            entry.value = manifest.to_json()
