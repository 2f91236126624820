"""The measurements of training run; what a large annotation file may take."""

from pathlib import Path

import pytest

from benchmarks.training import annotations, loader
from tests.support.coco_sized import TRAIN_IMAGES, TRAIN_OBJECTS

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.slow
def test_workers_share_an_annotation_file_of_cocos_size(tmp_path: Path) -> None:
    figures = annotations(tmp_path, TRAIN_IMAGES, TRAIN_OBJECTS)
    assert 430 < figures["megabytes"] < 500
    assert (figures["images"], figures["objects"]) == (TRAIN_IMAGES, TRAIN_OBJECTS * 99 // 100)
    assert figures["megabytes_of_memory_at_most"] - figures["megabytes_of_memory_before"] < 4000
    assert len(figures["megabytes_of_each_worker_alone"]) == 8
    assert max(figures["megabytes_of_each_worker_alone"]) < 200


def test_a_small_file_is_measured_in_the_same_way(tmp_path: Path) -> None:
    figures = annotations(tmp_path, 64, 400, workers=1)
    assert (figures["images"], figures["objects"]) == (64, 396)
    assert len(figures["megabytes_of_each_worker_alone"]) == 1


def test_the_loader_is_measured(tmp_path: Path) -> None:
    figures = loader(tmp_path, images=4)
    assert figures["images"] >= 4
    assert figures["processor_ms_an_image"] > 0
