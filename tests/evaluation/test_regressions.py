"""Deliberately broken models, trained and on images that they know how to read: the gate and the agreement say so."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from typer.testing import CliRunner

from condinst_deploy.cli.evaluate import main
from condinst_deploy.contract import ImageGeometry
from condinst_deploy.data.shapes_dataset import generate_shapes
from condinst_deploy.evaluation.coco_metrics import detect_all, load_coco
from condinst_deploy.masks import Masks
from condinst_deploy.model import candidates, mask_branch
from condinst_deploy.model.head import level_points
from condinst_deploy.model.mask_head import dynamic_mask_head
from condinst_deploy.model.operations import REFERENCE, Operations
from condinst_deploy.runtime import postprocess, torch_backend
from condinst_deploy.runtime.predictor import Predictor
from tests.support.models import SHIPPED

pytestmark = pytest.mark.usefixtures("one_thread")

COUNT = 24
GATE = 0.1


def nearest_features(x: Tensor, factor: int) -> Tensor:
    """Instead of the aligned bilinear in the mask branch."""
    return F.interpolate(x, scale_factor=factor, mode="nearest")


def nearest_masks(logits: np.ndarray[Any, Any], kept: np.ndarray[Any, Any], geometry: ImageGeometry) -> Masks:
    """Instead of aligned bilinear, sigmoid, aligned bilinear."""
    padded = torch.from_numpy(logits[kept])[None].repeat_interleave(8, 2).repeat_interleave(8, 3)
    height, width = geometry.resized
    resized = padded[:, :, :height, :width]
    return Masks.from_dense((F.interpolate(resized, size=geometry.original, mode="nearest")[0] > 0).numpy())


def pixel_corners(feats: Tensor, params: Tensor, points: Tensor, soi: Tensor, hidden: int) -> Tensor:
    """A pixel's coordinates are those of its corner, not of its centre."""
    return dynamic_mask_head(feats, params, points + 4, soi, hidden)


def with_pixel_corners(device: torch.device) -> Operations:
    return REFERENCE._replace(mask_head=pixel_corners)


def point_corners(height: int, width: int, stride: int, device: torch.device) -> Tensor:
    """A location's point is the corner of its cell, not the centre."""
    return level_points(height, width, stride, device) - stride / 2


BROKEN: dict[str, tuple[object, str, Callable[..., Any]]] = {
    "nearest features": (mask_branch, "aligned_bilinear", nearest_features),
    "nearest masks": (postprocess, "masks_from_logits", nearest_masks),
    "pixel corners": (torch_backend, "operations_for", with_pixel_corners),
    "point corners": (candidates, "level_points", point_corners),
}


MASKS = {f"mask {figure}" for figure in ("AP", "AP small", "AP medium")}
FAILING = {
    "nearest features": {"mask AP75", "mask AP small"},
    "nearest masks": MASKS | {"mask AP50", "mask AP75"},
    "pixel corners": MASKS,
    "point corners": MASKS | {"mask AP75", "box AP", "box AP50", "box AP75", "box AP small", "box AP medium"},
}
"""Which metrics are off by at least twice the gate."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return generate_shapes(tmp_path_factory.mktemp("shapes"), "val", COUNT)


@pytest.fixture(scope="module")
def good(data: Path) -> Path:
    return results_of(data, "good", batch_size=1)


def results_of(data: Path, name: str, batch_size: int) -> Path:
    ground_truth = load_coco(data)
    images = [(i, data.parent / "val" / ground_truth.imgs[i]["file_name"]) for i in ground_truth.getImgIds()]
    path = data.parent / f"{name}.json"
    with Predictor(SHIPPED, device="cpu", batch_size=batch_size) as predictor:
        path.write_text(json.dumps(detect_all(predictor, images)))
    return path


def evaluate(data: Path, reference: Path, other: Path, out: Path) -> tuple[int, Any]:
    arguments = ["--annotations", data, "--results", reference, "--results", other, "--gate", GATE, "--out", out]
    done = CliRunner().invoke(main, [str(argument) for argument in arguments])
    return done.exit_code, json.loads((out / "figures.json").read_text())


def test_the_same_model_in_other_batches_passes(data: Path, good: Path, tmp_path: Path) -> None:
    status, metrics = evaluate(data, good, results_of(data, "batched", batch_size=4), tmp_path)
    agreement = metrics["comparisons"][0]["agreement"]
    assert status == 0
    assert metrics["sides"][0]["mask"]["ap"] > 30  # it is trained: otherwise nothing here would mean anything
    assert agreement["matched_share"] >= 0.999
    assert agreement["mask_iou"]["median"] >= 0.9999


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_model_fails_the_gate_and_the_agreement(
    name: str, data: Path, good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(*BROKEN[name])
    status, metrics = evaluate(data, good, results_of(data, name, batch_size=1), tmp_path)
    agreement = metrics["comparisons"][0]["agreement"]
    assert status == 1
    failed = {failure.split(": ")[1].split(" is ")[0] for failure in metrics["gate"]["failures"]}
    assert failed >= FAILING[name]
    assert agreement["mask_iou"]["median"] < 0.99
    if name == "point corners":
        assert agreement["box_error_px"]["median"] >= 2
    else:  # the boxes are right, and only the masks tell
        assert agreement["matched_share"] == 1
        assert agreement["box_error_px"]["max"] < 0.01
        assert not any(figure.startswith("box") for figure in failed)
    assert metrics["comparisons"][0]["worst_images"][0]["difference"] > 0.3
