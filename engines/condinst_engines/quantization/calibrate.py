"""Ranges of the activations of a quantised engine: measured on images, or read from the manifest of another engine."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx_ir as ir

from condinst_deploy.contract import ModelManifest
from condinst_deploy.contract.artifacts import check_json
from condinst_deploy.contract.engine_manifest import EngineManifest
from condinst_deploy.contract.quantization import Quantization
from condinst_deploy.errors import ArtifactError, ConfigError, EngineError
from condinst_deploy.shown_text import counted
from condinst_deploy.support.input_files import read_text
from condinst_engines.build_recipe import BuildRecipe
from condinst_engines.precision_policy import Quantized
from condinst_engines.quantization.insert import Scales, activations, chosen_convolutions, largest_range
from condinst_export.quantization.calibration_images import CalibrationImages
from condinst_export.quantization.calibration_options import CalibrationOptions
from condinst_export.quantization.histograms import collected
from condinst_export.quantization.thresholds import Range, range_of


@dataclass(frozen=True)
class Request:
    """A quantised build.

    Attributes:
        kind: int8 or fp8.
        calibration: images and method. With `scales` its images only judge the result.
        scales: manifest of a quantised engine whose ranges are taken; None: they are measured.
        report: folder of the report; None: no files.
        sensitivity: also measure what each group of convolutions costs.
    """

    kind: Quantized
    calibration: CalibrationOptions
    scales: Path | None = None
    report: Path | None = None
    sensitivity: bool = False

    def images(self, manifest: ModelManifest) -> CalibrationImages:
        """The folder's images, as a model takes them.

        Raises:
            ConfigError: there are too few.
            ImageError: there are none.
        """
        return CalibrationImages(self.calibration.folder, manifest, self.calibration.images)


def calibrated(
    proto: onnx.ModelProto,
    manifest: ModelManifest,
    request: Request,
    recipe: BuildRecipe,
    earlier: Quantization | None = None,
    on_share: Callable[[float], None] = lambda share: None,
) -> tuple[Scales, Quantization]:
    """Find the range of every tensor that a quantised convolution reads.

    Args:
        proto: the float32 file.
        manifest: inside it.
        request: what to measure on.
        recipe: with the policy that says which convolutions.
        earlier: of `earlier_record`; its ranges are taken. None: they are measured.
        on_share: called with the share of the images that are done.

    Raises:
        ConfigError: `earlier` lacks a tensor, or has a range that the half type cannot hold as a scale.
        EngineError: the policy leaves no convolution in 8 bits.
        ExportError: a tensor is not finite.
        ImageError: an image cannot be read.
    """
    nodes = chosen_convolutions(ir.from_proto(proto), recipe.policy, recipe.precision, request.kind)
    if not nodes:
        raise EngineError(
            f"no convolution is left for --{request.kind}: the policy keeps all of them in other types; see [policy] of"
            " the recipe. No engine was built"
        )
    names = activations(nodes)
    if earlier is not None:
        _check_usable(earlier, names, request, recipe)
        record = earlier
    else:
        record = _measured(proto, manifest, request, names, on_share)
    ranges = {name: Range(-record.ranges[name], record.ranges[name]) for name in names}
    return Scales(request.kind, ranges), record.with_convolutions(len(nodes))


def _measured(
    proto: onnx.ModelProto,
    manifest: ModelManifest,
    request: Request,
    names: list[str],
    on_share: Callable[[float], None],
) -> Quantization:
    options = request.calibration
    images = request.images(manifest).calibration
    found = collected(proto, names, images, options.method, lambda done: on_share(done / len(images)))
    ranges = {name: range_of(entry, options.method, request.kind).magnitude for name, entry in found.tensors.items()}
    return Quantization(
        scheme=request.kind,
        method=options.method,
        source=options.folder.resolve().name,
        images=found.images,
        images_sha256=found.images_sha256,
        convolutions=0,
        ranges=ranges,
    )


def earlier_record(request: Request, onnx_sha256: str) -> Quantization | None:
    """The record in the manifest of `request.scales`; None: ranges are to be measured.

    Args:
        request: names the manifest.
        onnx_sha256: of the exported file.

    Raises:
        ArtifactError: it is no manifest of an engine.
        ConfigError: the engine is of another file or kind.
    """
    if request.scales is None:
        return None
    record, manifest = recorded_ranges(request.scales, request.kind)
    if manifest.onnx_sha256 != onnx_sha256:
        raise ConfigError(
            f"--scales is {request.scales}, of an engine from another ONNX file ({manifest.onnx}); calibrate again:"
            " ranges belong to weights"
        )
    return record


def recorded_ranges(path: Path, kind: Quantized) -> tuple[Quantization, EngineManifest]:
    """The ranges in the manifest of an engine, and the manifest.

    Raises:
        ArtifactError: it is no manifest of an engine.
        ConfigError: the file is of another kind, or the engine has no such ranges.
    """
    check_json(path, "ENGINE.json of a quantised engine in --scales")
    try:
        manifest = EngineManifest.from_json(read_text(path))
    except (FileNotFoundError, NotADirectoryError) as e:
        raise ArtifactError(f"no manifest at {path}; give ENGINE.json of a quantised engine in --scales") from e
    except (OSError, UnicodeDecodeError) as e:
        raise ArtifactError(
            f"--scales is {path}, which cannot be read ({e}); give ENGINE.json of a quantised engine"
        ) from e
    except ArtifactError as e:
        raise ArtifactError(f"--scales is {path}: {e}") from e
    record = manifest.quantization
    if record is None or record.scheme != kind:
        had = "no ranges" if record is None else f"ranges for {record.scheme}"
        raise ConfigError(
            f"--scales is {path}, which has {had}; expected the manifest of an engine built with --{kind}"
        )
    return record, manifest


def _check_usable(record: Quantization, names: list[str], request: Request, recipe: BuildRecipe) -> None:
    missing = [name for name in names if name not in record.ranges]
    if missing:
        raise ConfigError(
            f"--scales is {request.scales}, which lacks {counted(len(missing), 'tensor')} ({missing[0]}): its policy"
            " quantised other convolutions; calibrate again"
        )
    most = largest_range(request.kind, recipe.precision)
    wide = [name for name in names if record.ranges[name] > most]
    if wide:
        raise ConfigError(
            f"--scales is {request.scales}, whose range of {wide[0]} is {record.ranges[wide[0]]:g}; a scale in"
            f" {recipe.precision} holds {most:g} at most. Was the file edited? Calibrate again"
        )
