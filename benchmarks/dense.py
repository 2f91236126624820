"""What both references do after the network: dense masks of the whole image, then pycocotools' encoding.

The tests hold the compact postprocessing equal to it; the benchmarks measure beside it.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch.nn.functional as F
from pycocotools import mask as coco_mask
from torch import Tensor

from condinst_deploy.contract import ImageGeometry
from condinst_deploy.model.resample import aligned_bilinear

Bool = npt.NDArray[np.bool_]


def dense_probabilities(logits: Tensor, geometry: ImageGeometry) -> Tensor:
    """Mask logits `(n, h, w)` at stride 8 -> probabilities `(n, H, W)` at original size."""
    probabilities = aligned_bilinear(logits[None], 2).sigmoid()
    full = aligned_bilinear(probabilities, 4)[:, :, : geometry.resized[0], : geometry.resized[1]]
    return F.interpolate(full, size=geometry.original, mode="bilinear", align_corners=False)[0]


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
