"""The sweeps compute what they say; no time is asserted."""

import numpy as np
import pytest

from benchmarks.sweeps import Plan, blobs, instances, original, peak, targets_of
from condinst_deploy.contract import ImageGeometry, Preprocessing
from condinst_deploy.runtime.postprocess import masks_from_logits
from tests.support.dense_masks import dense_rles

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL = Plan(repeat=1, peak_side=64)
GEOMETRY = ImageGeometry.of((800, 1333), Preprocessing())


def test_masks_are_the_same_for_the_same_seed_and_cover_what_is_said() -> None:
    logits = blobs(100, 0, GEOMETRY)
    assert logits.shape == (100, 100, 168)
    np.testing.assert_array_equal(logits, blobs(100, 0, GEOMETRY))
    assert not np.array_equal(logits, blobs(100, 1, GEOMETRY))
    areas = (logits > 0).mean(axis=(1, 2))
    assert 0.03 < np.median(areas) < 0.07
    assert 0.3 < areas.max() < 0.6
    assert 0 < areas.min() < 0.01


def test_both_that_are_timed_make_the_same_masks() -> None:
    import torch
    from pycocotools import mask as coco_mask

    logits = blobs(3, 1, GEOMETRY)
    ours = masks_from_logits(logits, np.arange(3), GEOMETRY).rle()
    dense = dense_rles(torch.from_numpy(logits), GEOMETRY)
    pixels = [np.not_equal(coco_mask.decode(a), coco_mask.decode(b)).sum() for a, b in zip(ours, dense, strict=True)]
    assert max(pixels) <= 2  # of a million, within rounding of 0.5


def test_rows_hold_every_figure() -> None:
    row = instances(2, SMALL)
    assert row["instances"] == 2
    assert all(row[name] > 0 for name in ("masks_ms", "dense_ms", "dense_over_masks", "mask_head_ms"))
    row = original((48, 64), Plan(repeat=1))
    assert (row["height"], row["width"], row["megapixels"]) == (48, 64, 0.003072)
    assert row["resize_ms"] > 0


def test_speeds_follow_from_times() -> None:
    row = peak(SMALL, 1)
    assert row["threads"] == 1
    assert min(row["product_gflops"], row["convolution_gflops"], row["copy_gbs"]) > 0
    metrics = {
        "gflop": {"backbone": 400.0, "head": 80.45},
        "peak": [{"threads": 2, "product_gflops": 300.0, "convolution_gflops": 320.3, "copy_gbs": 20.0}],
        "full": [{"threads": 2, "batch": 1, "network_ms": 2000.0}, {"threads": 2, "batch": 2, "network_ms": 1900.0}],
    }
    assert [(target.measured, target.unit) for target in targets_of(metrics)] == [
        (300, "GFLOP/s"),
        (320.3, "GFLOP/s"),
        (20, "GB/s"),
        (240.2, "GFLOP/s"),
        (75, "%"),
    ]
