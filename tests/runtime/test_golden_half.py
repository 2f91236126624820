"""Checkpoints of full size in half precision through `TorchBackend`: the references' own detections, on a CPU."""

from pathlib import Path

import numpy as np
import pytest

from condinst_deploy.evaluation.agreement import agreement, merged
from condinst_deploy.imaging.decode import rgb_from
from condinst_deploy.model.half import HalfType
from condinst_deploy.runtime.torch_backend import TorchBackend
from tests.support.batches import host_batch
from tests.support.models import GOLDEN, GOLDEN_READERS, IMAGES

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

NAMES = ("coffee", "astronaut")
LEAST: dict[HalfType, tuple[float, float]] = {"bfloat16": (0.90, 0.97), "float16": (0.97, 0.99)}
"""Share of the reference's detections that match at a box IoU of 0.9, and the median mask IoU of the pairs."""


@pytest.mark.parametrize("half", list(LEAST))
@pytest.mark.parametrize("family", ["mmdet", "adelaidet"])
def test_detections_are_the_references(family: str, half: HalfType, request: pytest.FixtureRequest) -> None:
    path: Path = request.getfixturevalue(f"{family}_checkpoint")
    found = []
    with TorchBackend.load(path, "cpu", half) as backend:
        for name in NAMES:
            inputs, geometries = host_batch(backend, [rgb_from(IMAGES / f"{name}.png")])
            (ours,) = backend.postprocess(backend.forward(inputs), geometries)
            golden = GOLDEN_READERS[family](np.load(GOLDEN / family / f"{name}_seed0.npz"), 0)
            found.append(agreement(golden, ours, min_iou=0.9))
    result = merged(found)
    matched, median = LEAST[half]
    assert result.reference_count > 140
    assert result.matched_share >= matched, result.matched_share
    assert float(np.median(result.mask_ious)) >= median
