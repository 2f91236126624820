"""A small share of COCO-sized results, made up as for the benchmark: memory grows as slowly as it must."""

import tracemalloc
from pathlib import Path

from condinst_deploy.evaluation.comparison import compare
from condinst_deploy.evaluation.results_reader import by_image, read_results
from condinst_deploy.runtime.coco_results import coco_results
from tests.support.coco_sized import EACH, made_up_detections, made_up_ground_truth

IMAGES = 10
LIMIT = 3e9 / 500_000
"""Bytes a detection that COCO-sized results may take."""


def test_made_up_results_are_read_back_as_written_in_bounded_memory(tmp_path: Path) -> None:
    pool = [made_up_detections(seed) for seed in range(2)]
    ground_truth = made_up_ground_truth(tmp_path, pool, IMAGES)
    entries = [entry for i, image_id in enumerate(ground_truth.image_ids) for entry in pool[i % 2].to_coco(image_id)]
    tracemalloc.start()
    try:
        with coco_results(tmp_path / "results.json") as writer:
            writer.add_entries(iter(entries))
        written = tracemalloc.get_traced_memory()[1]
        assert written < 2**20  # whatever their number
        read = read_results(tmp_path / "results.json", ground_truth)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert read == entries
    assert len(read) == IMAGES * EACH
    assert peak / len(read) < LIMIT
    comparison = compare(by_image(read), by_image(entries), ground_truth.image_ids)
    assert comparison.whole.same_set
    assert comparison.whole.mask_ious.min() == 1
