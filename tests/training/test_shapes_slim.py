"""A shortened run of the recipe whose model ships: it learns what an untrained model does not know."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from condinst_deploy.data.shapes_dataset import VAL_COUNT, generate_shapes
from condinst_deploy.evaluation.coco_metrics import average_precision, detect_all, load_coco
from condinst_deploy.model.checkpoints import load_model
from condinst_deploy.runtime.predictor import Predictor
from tests.support.models import SHIPPED

REPORTED_MASK_AP = 0.724
"""Values in demo/README.md."""


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_shortened_training_reaches_what_an_untrained_model_cannot(tmp_path: Path) -> None:
    command = [str(Path(sys.executable).parent / "condinst-train"), "--recipe", "shapes_slim", "--json"]
    run = subprocess.run([*command, "--iterations", "300"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    trained = json.loads(run.stdout)
    assert trained["segm/ap"] > 0.15  # 0.232 when it was written; an untrained model has less than 0.01


@pytest.mark.slow
def test_the_shipped_model_has_the_precision_that_is_reported(tmp_path: Path) -> None:
    annotations = generate_shapes(tmp_path, "val", VAL_COUNT)
    ground_truth = load_coco(annotations)
    images = [
        (i, tmp_path / "val" / ground_truth.loadImgs([i])[0]["file_name"]) for i in sorted(ground_truth.getImgIds())
    ]
    with Predictor(SHIPPED, batch_size=8) as predictor:
        results = detect_all(predictor, images)
    assert average_precision(ground_truth, results, "segm").ap == pytest.approx(REPORTED_MASK_AP, abs=1e-3)
    assert load_model(SHIPPED).manifest.class_names == ("ellipse", "rectangle", "star")
