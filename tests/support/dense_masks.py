"""Postprocessing of both references: dense masks of the whole image, then pycocotools' encoding.

The tests compare the compact postprocessing with it; the benchmarks time it beside ours.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask
from torch import Tensor

from condinst_deploy.contract import ImageGeometry
from condinst_deploy.model.mask_paste import dense_probabilities

Bool = npt.NDArray[np.bool_]


def dense_rles(logits: Tensor, geometry: ImageGeometry) -> list[dict[str, Any]]:
    """COCO RLEs of the masks, one encoding a mask, as both references write their results."""
    return encoded(dense_masks(logits, geometry))


def dense_masks(logits: Tensor, geometry: ImageGeometry) -> Bool:
    """Binary masks `(n, H, W)`."""
    masks: Bool = (dense_probabilities(logits, geometry) > 0.5).numpy()
    return masks


def encoded(masks: Bool) -> list[dict[str, Any]]:
    """pycocotools' RLE of each mask."""
    return [coco_mask.encode(np.asfortranarray(mask[..., None], dtype=np.uint8))[0] for mask in masks]
