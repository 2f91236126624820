"""Mask logits and detections for tests of postprocessing, on the host and on a GPU."""

import numpy as np
import torch

from condinst_deploy.contract import NetworkOutputs, Preprocessing

UNDECIDED = 5e-5
"""Probabilities this close to 0.5 may fall on either side."""


SMALL = Preprocessing(short_side=96, long_side=160)


BEYOND = [
    [-20.0, 10.0, 40.0, 50.0],  # reaches beyond the left side
    [100.0, 10.0, 140.0, 50.0],  # beside the image
    [10.0, 10.0, 10.0, 40.0],  # no width
    [60.0, -30.0, 200.0, 90.0],  # reaches beyond three sides
    [20.0, -9.0, 50.0, 0.0],  # ends at the upper side
    [0.0, 0.0, 96.0, 64.0],  # the whole image
]


def blobs(seed: int, n: int, height: int, width: int, scale: float = 4.0) -> torch.Tensor:
    """Smooth random logits: some parts positive, several parts an instance."""
    random = torch.Generator().manual_seed(seed)
    coarse = torch.randn(n, 1, max(1, height // 4), max(1, width // 4), generator=random) * scale - scale / 2
    fine = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bicubic")[:, 0]
    return fine + torch.randn(n, height, width, generator=random) * 0.3


def adversarial(height: int, width: int) -> dict[str, torch.Tensor]:
    """Named logits `(h, w)`, -6 where nothing is."""
    empty = torch.full((height, width), -6.0)

    def at(*cells: tuple[int, int], value: float = 6.0) -> torch.Tensor:
        logits = empty.clone()
        for y, x in cells:
            logits[y, x] = value
        return logits

    checkerboard = torch.where((torch.arange(height)[:, None] + torch.arange(width)) % 2 == 0, 5.0, -5.0)
    rising = torch.linspace(0.1, 1.5, height * width).reshape(height, width)
    return {
        "empty": empty,
        "all zero": torch.zeros(height, width),
        "full": torch.full((height, width), 9.0),
        "barely positive everywhere": torch.full((height, width), 1e-3),
        "saturated": torch.where(checkerboard > 0, 200.0, -200.0),
        "corners": at((0, 0), (0, width - 1), (height - 1, 0), (height - 1, width - 1)),
        "one cell": at((height // 2, width // 2)),
        "weak cell": at((height // 2, width // 2), value=0.01),
        "one cell in zeros": torch.where(empty == at((height // 2, width // 2)), 0.0, 6.0),
        "hole": -at((height // 2, width // 2)),
        "hole of zero": torch.where(empty == at((height // 2, width // 2)), 6.0, 0.0),
        "stripes of zero": torch.where(torch.arange(height)[:, None] % 2 == 0, 5.0, 0.0).expand(height, width),
        "specks": at((1, 1), (height - 2, 1), (2, width - 2), value=3.0),
        "top border": at(*((0, x) for x in range(width))),
        "right border": at(*((y, width - 1) for y in range(height))),
        "checkerboard": checkerboard,
        "all but the first column": torch.where(torch.arange(width) == 0, -6.0, 6.0).expand(height, width),
        "all but the first row": torch.where(torch.arange(height)[:, None] == 0, -6.0, 6.0).expand(height, width),
        "positive only in the padding": at((height - 1, width - 1)),
        "second and last column": at(*((y, x) for y in range(height) for x in (1, width - 1))),
        "second and last row": at(*((y, x) for y in (1, height - 1) for x in range(width))),
        # a sum or a difference of the two loses the small one
        "small beside huge": torch.where(torch.arange(width) % 2 == 0, -60000.0, rising),
        "small below huge": torch.where(torch.arange(height)[:, None] % 2 == 0, -60000.0, rising),
    }


def outputs_with(boxes: list[list[float]]) -> NetworkOutputs:
    """Detections with these boxes, best first, and their own masks, for an image of 64x96."""
    n = len(boxes)
    return NetworkOutputs(
        num_detections=np.array([n], dtype=np.int32),
        boxes=np.array([boxes], dtype=np.float32),
        scores=np.linspace(0.9, 0.3, n, dtype=np.float32)[None],
        labels=np.arange(n, dtype=np.int32)[None] % 3,
        mask_logits=blobs(3, n, 8, 12).numpy()[None],
    )
