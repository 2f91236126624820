"""The targets of the full-size model and the exports of every kind, through NVIDIA's builder."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from condinst_deploy.contract import Selection
from condinst_deploy.model.checkpoints import load_model
from condinst_engines.build_recipe import BuildRecipe
from condinst_engines.builder_library import BuilderLibrary
from condinst_engines.plan_builder import build_plan, graph_for_builder
from condinst_engines.profiles import profiles_for
from condinst_export.onnx_file import ExportOptions, onnx_from_model, with_options
from tests.support.models import DEEPER, SLIMMER, adelaidet_state, manifest_of, seeded_model

SERVER = "images=1x3x320x320:1x3x800x1344:8x3x1344x1344"
# ru_maxrss would count what the process that started this one held
BUILD = """
import json, re, sys
from pathlib import Path
from condinst_engines.cli.build_engine import main
try:
    main()
finally:
    peak = re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())
    print(json.dumps({"peak_kb": int(peak[1])}), file=sys.stderr)
"""


def built(source: str, folder: Path, precision: str) -> dict[str, Any]:
    """Return the summary of `condinst-build-engine --json`, with the peak memory of the process."""
    options = ("--onnx", source, f"--{precision}", "--flavour", "rtx", "--shapes", SERVER, "--json")
    run = subprocess.run(
        [sys.executable, "-c", BUILD, *options], cwd=folder, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    peak = json.loads(run.stderr.strip().splitlines()[-1])
    values: dict[str, Any] = json.loads(run.stdout) | peak
    return values


def test_the_full_size_file_builds_in_3_gb_and_half_as_large_in_float16(
    exported_r50: dict[str, Any], tmp_path: Path
) -> None:
    full, half = (built(exported_r50["path"], tmp_path, precision) for precision in ("fp32", "fp16"))
    assert half["plan_bytes"] <= 0.55 * full["plan_bytes"]
    for engine in (full, half):
        assert engine["peak_kb"] < 3e6
    assert "float16" not in full["found"]["layers"]
    assert half["found"]["layers"]["float16"] > 500
    weights = Path(exported_r50["path"]).stat().st_size
    assert 0.8 * weights < full["plan_bytes"] < 1.5 * weights


@pytest.mark.slow
@pytest.mark.parametrize("classes", [1, 80])
@pytest.mark.parametrize("static", [None, (1, 128, 224)], ids=["dynamic", "static"])
def test_exports_of_every_kind_build(classes: int, static: tuple[int, int, int] | None, rtx: BuilderLibrary) -> None:
    """With K = 300 and the fewest and the most classes; K = 100 and three classes are in test_plan_builder."""
    config = replace(SLIMMER, num_classes=classes, selection=Selection(max_detections=300))
    model = seeded_model(config)
    manifest = with_options(model, manifest_of(config), ExportOptions(static_shape=static))
    recipe = BuildRecipe(precision="float16")
    graph = graph_for_builder(onnx_from_model(model, manifest), recipe)
    engine = build_plan(graph, profiles_for(manifest, recipe), recipe, rtx)
    assert engine.tensors[-1].shape[1] == 300
    assert len(engine.profiles) == (static is None)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["MS_R_50", *DEEPER])
def test_adelaidets_full_size_models_build(architecture: str, tmp_path: Path, rtx: BuilderLibrary) -> None:
    path = tmp_path / "model.pth"
    torch.save(adelaidet_state(architecture), path)
    loaded = load_model(path)
    manifest = with_options(loaded.model, loaded.manifest, ExportOptions())
    recipe = BuildRecipe(precision="float16")
    graph = graph_for_builder(onnx_from_model(loaded.model, manifest), recipe)
    engine = build_plan(graph, profiles_for(manifest, recipe), recipe, rtx)
    assert [tensor.name for tensor in engine.tensors][-1] == "mask_logits"
    half_weights = path.stat().st_size / 2
    assert 0.8 * half_weights < len(engine.plan) < 1.5 * half_weights
