"""Exported files for tests, made without the verification, which has tests of its own."""

from pathlib import Path

import onnx

from condinst_deploy.model.checkpoints import load_model


def exported(checkpoint: Path, path: Path) -> Path:
    """Export a checkpoint with dynamic shapes; returns `path`."""
    from condinst_export.onnx_file import ExportOptions, onnx_from_model, with_options

    loaded = load_model(checkpoint)
    manifest = with_options(loaded.model, loaded.manifest, ExportOptions())
    onnx.save(onnx_from_model(loaded.model, manifest), str(path))
    return path
