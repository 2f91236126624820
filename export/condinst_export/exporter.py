"""Export a checkpoint: load it, trace the graph, compare it with PyTorch, write the file."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir

from condinst_deploy.contract import ModelManifest, contiguous_ids
from condinst_deploy.errors import ConfigError
from condinst_deploy.evaluation.agreement import ONNX_TOLERANCE
from condinst_deploy.model.checkpoints import load_model
from condinst_deploy.runtime.cpu_features import OVERFLOW_REMARK, products_may_overflow
from condinst_deploy.shown_text import counted
from condinst_deploy.support.atomic_write import atomic_path, only_writer
from condinst_deploy.support.option_types import checked_arguments
from condinst_export.export_options import ExportOptions, checked_output
from condinst_export.onnx_file import onnx_from_model, tensorrt_remarks, with_options
from condinst_export.quantization.calibration_folder import check_calibration, few_images
from condinst_export.quantization.int8_file import Int8Reports, OnCount, int8_from_float32, quantized_convolutions
from condinst_export.quantization.quantized_agreement import INT8_TOLERANCE
from condinst_export.verify import CaseResult, Verification, verify_onnx

COMPARING = "comparing"
"""Stage in which the file is compared with PyTorch."""


@dataclass(frozen=True)
class ExportReports:
    """Functions that are called while an export runs."""

    on_stage: Callable[[str], None] = lambda stage: None  # what begins now
    on_loaded: Callable[[str, ModelManifest], None] = lambda note, manifest: None  # what the checkpoint is
    on_note: Callable[[str], None] = lambda note: None  # what a user should know
    on_case: Callable[[CaseResult], None] = lambda result: None  # one comparison with PyTorch
    on_progress: OnCount = lambda what, done, of: None  # how much of a stage, such as images, is done


@dataclass(frozen=True)
class ExportedModel:
    """An exported file.

    Attributes:
        path: the file, absolute.
        manifest: the description inside it.
        verification: its comparison with PyTorch.
        seconds: time of the whole export.
    """

    path: Path
    manifest: ModelManifest
    verification: Verification
    seconds: float

    def summary(self) -> dict[str, Any]:
        """Plain JSON values."""
        cases = [
            {"name": result.name, "shape": list(result.shape), "score_threshold": result.score_threshold}
            | result.agreement.summary()
            for result in self.verification.results
        ]
        return {
            "path": str(self.path),
            "seconds": round(self.seconds, 1),
            "manifest": asdict(self.manifest),
            "verification": {
                "tolerance": asdict(ONNX_TOLERANCE),
                "total": self.verification.total.summary(),
                "cases": cases,
            },
        }


@checked_arguments
def export_model(
    weights: str | Path,
    out: str | Path | None = None,
    options: ExportOptions | None = None,
    reports: ExportReports | None = None,
) -> ExportedModel:
    """Export a checkpoint as one ONNX file, and verify it.

    The float32 graph is compared with PyTorch on several images and sizes. The file gets its name only if the two
    agree. An INT8 file is then made from that graph, and compared with it on images that were held out.

    Args:
        weights: checkpoint of mmdetection, of AdelaiDet, or of this toolkit.
        out: file to write; None: `export/build/NAME_OF_THE_WEIGHTS.onnx` below the current directory, `.int8.onnx` for
            an INT8 file.
        options: what differs from the checkpoint's own settings.
        reports: functions that are called while the export runs.

    Raises:
        CheckpointError: the checkpoint cannot be loaded.
        ConfigError: an option cannot be used, or another run writes the same file.
        ExportError: the graph cannot be traced or translated.
        ImageError: the calibration's folder has no images, or one of them cannot be read.
        VerificationError: the file and PyTorch disagree, or INT8 and float32; nothing was written.
        OutputError: the file cannot be written.
    """
    started = time.perf_counter()
    options, reports, weights = options or ExportOptions(), reports or ExportReports(), Path(weights)
    path = checked_output(weights, None if out is None else Path(out), int8=options.int8 is not None)
    if options.int8 is not None:
        check_calibration(options.int8)
    reports.on_stage("reading the checkpoint")
    loaded = load_model(weights, options.family)
    manifest = with_options(loaded.model, loaded.manifest, options)
    if options.class_names is not None:
        manifest = _named(manifest, options.class_names)
    reports.on_loaded(loaded.note, manifest)
    if path.exists():
        reports.on_note(f"{path} exists and will be replaced; --out writes another file")
    with only_writer(path), atomic_path(path) as temporary:
        reports.on_stage("exporting the graph")
        proto = onnx_from_model(loaded.model, manifest)
        if options.int8 is not None:
            quantized_convolutions(ir.from_proto(proto), options.keep_float)  # a mistake is found before the comparison
        for remark in tensorrt_remarks(proto):
            reports.on_note(remark)
        if options.int8 is None:
            onnx.save(proto, str(temporary))  # a full disk is found before the comparison
        reports.on_stage(COMPARING)
        verification = verify_onnx(proto, loaded.model, manifest, reports.on_case)
        if options.int8 is not None:
            proto, manifest = _in_int8(proto, manifest, options, reports)
            onnx.save(proto, str(temporary))
    return ExportedModel(path, manifest, verification, time.perf_counter() - started)


def _in_int8(
    proto: onnx.ModelProto, manifest: ModelManifest, options: ExportOptions, reports: ExportReports
) -> tuple[onnx.ModelProto, ModelManifest]:
    assert options.int8 is not None
    if products_may_overflow():
        reports.on_note(OVERFLOW_REMARK)
    watching = Int8Reports(reports.on_stage, reports.on_progress)
    proto, manifest = int8_from_float32(proto, manifest, options.int8, options.keep_float, watching)
    assert manifest.quantization is not None
    found = manifest.quantization.agreement
    assert found is not None
    reports.on_note(f"{manifest.quantization}; {found} (expected: {INT8_TOLERANCE})")
    if few := few_images(found.images):
        reports.on_note(few)
    return proto, manifest


def _named(manifest: ModelManifest, names: tuple[str, ...]) -> ModelManifest:
    if len(names) != len(manifest.class_names):
        raise ConfigError(
            f"{counted(len(names), 'class name')} given; the model has {counted(len(manifest.class_names), 'class')}"
        )
    return replace(manifest, class_names=names, category_ids=contiguous_ids(names))
