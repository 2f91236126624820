"""The references' dense mask computation, in PyTorch: what the compact postprocessing must equal."""

import torch.nn.functional as F
from torch import Tensor

from condinst_deploy.contract import ImageGeometry
from condinst_deploy.model.resample import aligned_bilinear


def dense_probabilities(logits: Tensor, geometry: ImageGeometry) -> Tensor:
    """Mask logits `(n, h, w)` at stride 8 -> probabilities `(n, H, W)` at original size."""
    probabilities = aligned_bilinear(logits[None], 2).sigmoid()
    full = aligned_bilinear(probabilities, 4)[:, :, : geometry.resized[0], : geometry.resized[1]]
    return F.interpolate(full, size=geometry.original, mode="bilinear", align_corners=False)[0]
