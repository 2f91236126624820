"""The exported file on the whole validation split, through the command that users run."""

import json
from pathlib import Path

import onnx
import pytest
from typer.testing import CliRunner

from condinst_deploy.cli.evaluate import main
from condinst_deploy.data.shapes_dataset import VAL_COUNT, generate_shapes
from condinst_deploy.model.checkpoints import load_model
from condinst_export.onnx_file import ExportOptions, onnx_from_model, with_options
from tests.support.models import SHIPPED

GATE = 0.05  # points


@pytest.mark.slow
def test_onnx_runtime_has_pytorchs_precision_on_the_validation_split(tmp_path: Path) -> None:
    annotations = generate_shapes(tmp_path, "val", VAL_COUNT)
    loaded = load_model(SHIPPED)
    manifest = with_options(loaded.model, loaded.manifest, ExportOptions())
    onnx.save(onnx_from_model(loaded.model, manifest), str(tmp_path / "exported.onnx"))
    models = ["--model", SHIPPED, "--model", tmp_path / "exported.onnx"]
    data = ["--annotations", annotations, "--images", tmp_path / "val", "--out", tmp_path / "out"]
    arguments = [*models, *data, "--device", "cpu", "--gate", GATE]
    done = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert done.exit_code == 0, done.output
    metrics = json.loads((tmp_path / "out" / "figures.json").read_text())
    assert metrics["images"] == VAL_COUNT
    agreement = metrics["comparisons"][0]["agreement"]
    assert agreement["matched_share"] >= 0.999
    assert agreement["mask_iou"]["median"] >= 0.9999
