"""The reference form of pasting masks: dense probabilities of the whole image, as both reference implementations have.

`condinst_deploy.runtime.postprocess` and `condinst_deploy.kernels.runs` compute the same masks without dense pixels.
"""

import torch.nn.functional as F
from torch import Tensor

from condinst_deploy.contract import ImageGeometry
from condinst_deploy.model.resample import aligned_bilinear


def dense_probabilities(logits: Tensor, geometry: ImageGeometry) -> Tensor:
    """Resample mask probabilities to the original size.

    Args:
        logits: mask logits `(n, h, w)` at stride 8.
        geometry: of the image.

    Returns:
        `(n, H, W)`; a pixel belongs to the mask if its probability is above 0.5.
    """
    probabilities = aligned_bilinear(logits[None], 2).sigmoid()
    full = aligned_bilinear(probabilities, 4)[:, :, : geometry.resized[0], : geometry.resized[1]]
    return F.interpolate(full, size=geometry.original, mode="bilinear", align_corners=False)[0]
