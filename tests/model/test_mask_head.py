"""DynamicMaskHead: the PyTorch reference against a loop over instances and pixels in float64."""

import numpy as np
import numpy.typing as npt
import pytest
import torch

from condinst_deploy.model.mask_head import dynamic_mask_head
from tests.support.operations import MaskHeadCase, mask_head_cases


def one_instance(case: MaskHeadCase, image: int, slot: int) -> npt.NDArray[np.float64]:
    """Layer by layer as the paper says it, with the parameters cut by hand."""
    p = case.params[image, slot].double().numpy()
    w1, w2, w3 = p[:80].reshape(8, 10), p[80:144].reshape(8, 8), p[144:152].reshape(1, 8)
    b1, b2, b3 = p[152:160], p[160:168], p[168:169]
    feats = case.mask_feats[image].double().numpy()
    logits = np.zeros(feats.shape[1:])
    point, soi = case.points[image, slot].double().numpy(), float(case.soi[image, slot])
    for y, x in np.ndindex(logits.shape):
        relative = (point - (8 * x + 4, 8 * y + 4)) / soi
        hidden = np.maximum(w1 @ np.concatenate((relative, feats[:, y, x])) + b1, 0)
        hidden = np.maximum(w2 @ hidden + b2, 0)
        logits[y, x] = (w3 @ hidden + b3)[0]
    return logits


@pytest.mark.parametrize("case", mask_head_cases(), ids=str)
def test_the_reference_computes_what_the_paper_says(case: MaskHeadCase) -> None:
    logits = dynamic_mask_head(case.mask_feats, case.params, case.points, case.soi)
    assert logits.shape == (*case.params.shape[:2], *case.mask_feats.shape[2:])
    for image in range(len(case.params)):
        for slot in range(min(3, case.params.shape[1])):
            want = one_instance(case, image, slot)
            scale = max(1.0, float(np.abs(want).max()))
            np.testing.assert_allclose(logits[image, slot].numpy(), want, atol=1e-5 * scale)


def test_no_instances_give_no_logits() -> None:
    logits = dynamic_mask_head(torch.zeros(2, 8, 3, 4), torch.zeros(2, 0, 169), torch.zeros(2, 0, 2), torch.ones(2, 0))
    assert logits.shape == (2, 0, 3, 4)
