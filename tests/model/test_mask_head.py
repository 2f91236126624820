"""DynamicMaskHead: the PyTorch reference against a loop over instances and pixels in float64."""

import numpy as np
import numpy.typing as npt
import pytest
import torch

from condinst_deploy.model.mask_head import dynamic_mask_head
from tests.support.operations import MaskHeadCase, mask_head_cases

WIDTHS = {"CondInst": (8, 8), "AdelaiDet's BoxInst": (16, 8), "mmdetection's BoxInst": (16, 16)}
"""Mask channels and hidden channels."""

ENDS = {
    (8, 8): (80, 144, 152, 160, 168, 169),
    (16, 8): (144, 208, 216, 224, 232, 233),
    (16, 16): (288, 544, 560, 576, 592, 593),
}
"""Ends of w1, w2, w3, b1, b2 and b3 in the controller's output, counted by hand."""


def one_instance(case: MaskHeadCase, image: int, slot: int, widths: tuple[int, int]) -> npt.NDArray[np.float64]:
    """Layer by layer as the paper says it, with the parameters cut by hand."""
    channels, hidden = widths
    parts = np.split(case.params[image, slot].double().numpy(), ENDS[widths])
    assert not len(parts.pop())
    w1, w2, w3 = parts[0].reshape(hidden, channels + 2), parts[1].reshape(hidden, hidden), parts[2].reshape(1, hidden)
    b1, b2, b3 = parts[3:]
    feats = case.mask_feats[image].double().numpy()
    logits = np.zeros(feats.shape[1:])
    point, soi = case.points[image, slot].double().numpy(), float(case.soi[image, slot])
    for y, x in np.ndindex(logits.shape):
        relative = (point - (8 * x + 4, 8 * y + 4)) / soi
        first = np.maximum(w1 @ np.concatenate((relative, feats[:, y, x])) + b1, 0)
        second = np.maximum(w2 @ first + b2, 0)
        logits[y, x] = (w3 @ second + b3)[0]
    return logits


@pytest.mark.parametrize(
    ("widths", "case"),
    [(widths, case) for widths in WIDTHS.values() for case in mask_head_cases(*widths)],
    ids=lambda value: str(value),
)
def test_the_reference_computes_what_the_paper_says(widths: tuple[int, int], case: MaskHeadCase) -> None:
    logits = dynamic_mask_head(case.mask_feats, case.params, case.points, case.soi, widths[1])
    assert logits.shape == (*case.params.shape[:2], *case.mask_feats.shape[2:])
    for image in range(len(case.params)):
        for slot in range(min(3, case.params.shape[1])):
            want = one_instance(case, image, slot, widths)
            scale = max(1.0, float(np.abs(want).max()))
            np.testing.assert_allclose(logits[image, slot].numpy(), want, atol=1e-5 * scale)


def test_no_instances_give_no_logits() -> None:
    logits = dynamic_mask_head(torch.zeros(2, 8, 3, 4), torch.zeros(2, 0, 169), torch.zeros(2, 0, 2), torch.ones(2, 0))
    assert logits.shape == (2, 0, 3, 4)
