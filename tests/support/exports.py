"""Exported files for tests, made without the verification, which has its own tests."""

from pathlib import Path

import onnx
import torch

from condinst_deploy.model.checkpoints import load_model
from tests.support.models import mmdet_state


def exported(checkpoint: Path, path: Path) -> Path:
    """Export a checkpoint with dynamic shapes; returns `path`."""
    from condinst_export.onnx_file import ExportOptions, onnx_from_model, with_options

    loaded = load_model(checkpoint)
    manifest = with_options(loaded.model, loaded.manifest, ExportOptions())
    onnx.save(onnx_from_model(loaded.model, manifest), str(path))
    return path


def save_r50(checkpoint: Path, path: Path, seed: int = 0) -> None:
    """Write mmdetection's R-50 with weights made from a seed, and its exported file."""
    save_r50_checkpoint(checkpoint, seed)
    exported(checkpoint, path)


def save_r50_checkpoint(path: Path, seed: int = 0) -> Path:
    """Write mmdetection's R-50 with weights made from a seed; returns `path`."""
    torch.save({"meta": {"epoch": 12}, "state_dict": mmdet_state(seed)}, path)
    return path


def save_int8(exported_file: Path, path: Path, images: Path) -> None:
    """Write the INT8 file of an exported file, as `condinst-export --int8` makes it, calibrated on a folder."""
    from condinst_engines.onnx_input import manifest_of
    from condinst_export.quantization.calibration_options import CalibrationOptions
    from condinst_export.quantization.int8_file import int8_from_float32

    proto = onnx.load(str(exported_file))
    onnx.save(int8_from_float32(proto, manifest_of(proto, exported_file), CalibrationOptions(images))[0], str(path))
