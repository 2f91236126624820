"""The cost of a change in accuracy: detections beside a reference's, as metrics of a results file."""

from typing import Any

import numpy as np

from condinst_deploy.data.shapes_dataset import ShapesConfig, image_of, scene_of
from condinst_deploy.evaluation.agreement import Agreement
from condinst_deploy.imaging.decode import RGBArray


def accuracy_of(found: Agreement) -> dict[str, Any]:
    """Counts and largest errors, share of the matched detections, and medians over them; None if none matched."""
    errors = {
        "median_mask_iou": found.mask_ious,
        "median_box_error_px": found.box_errors,
        "median_score_error": found.score_errors,
    }
    medians = {name: float(np.median(each)) if found.matched else None for name, each in errors.items()}
    return found.summary() | {"matched_share": found.matched_share} | medians


def shapes_images(count: int) -> list[RGBArray]:
    """The first images of the shapes set's validation split."""
    config = ShapesConfig()
    return [image_of(scene_of(config, "val", i), config, "val", i) for i in range(count)]
