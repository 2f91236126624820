"""Files that are written while a model detects, with made-up predictions."""

import json
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from condinst_deploy.contract import InstanceDetections
from condinst_deploy.errors import BackendError, ImageError, OutputError
from condinst_deploy.masks import Masks
from condinst_deploy.runtime.coco_results import ResultsWriter, coco_results
from condinst_deploy.runtime.pipeline import Prediction
from condinst_deploy.runtime.recording import Destination, Recorded, record

SIDE, COUNT = 16, 12


class MadeUp:
    """A predictor that finds as many instances in an image as its place says, and stops at a given image."""

    def __init__(self, stop: int = COUNT, error: BaseException | None = None) -> None:
        self._stop, self._error = stop, error
        self.closed = False

    def stream(self, paths: list[Path]) -> Iterator[Prediction]:
        try:
            for i, path in enumerate(paths):
                if i == self._stop and self._error is not None:
                    raise self._error
                image = np.full((SIDE, SIDE, 3), i, dtype=np.uint8)
                if path.name.startswith("bad"):
                    yield Prediction(str(path), None, None, ImageError(f"{path} is torn"))
                else:
                    yield Prediction(str(path), image, detections(i))
        finally:
            self.closed = True


def detections(count: int) -> InstanceDetections:
    dense = np.zeros((count, SIDE, SIDE), dtype=np.bool_)
    dense[:, 2:9, 3:8] = True
    return InstanceDetections(
        boxes=np.tile(np.array([3, 2, 8, 9], dtype=np.float32), (count, 1)),
        scores=np.full(count, 0.9, dtype=np.float32),
        labels=np.zeros(count, dtype=np.int64),
        masks=Masks.from_dense(dense),
        class_names=("a",),
        category_ids=(1,),
    )


def recorded(predictor: Any, paths: list[Path], out: Path) -> Recorded:
    with coco_results(out / "detections.json") as writer:
        return record(predictor, paths, Destination(out), writer)


def ids(out: Path) -> list[int]:
    return [entry["image_id"] for entry in json.loads((out / "detections.json").read_text())]


@pytest.fixture
def paths() -> list[Path]:
    # equal for longer than the temporary names of files that are being written
    return [Path(f"{'x' * 60}{i}.jpg") for i in range(COUNT)]


@pytest.fixture(autouse=True)
def _no_thread_is_left_behind() -> Iterator[None]:
    yield
    assert [thread for thread in threading.enumerate() if thread.name.startswith("condinst-")] == []


def test_results_are_written_in_order_and_overlays_beside_them(paths: list[Path], tmp_path: Path) -> None:
    paths[4] = Path("bad.jpg")
    outcome = recorded(MadeUp(), paths, tmp_path)
    places = [i for i in range(COUNT) if i != 4]
    assert ids(tmp_path) == [i + 1 for i in places for _ in range(i)]
    assert [entry["id"] for entry in outcome.images] == [i + 1 for i in places]
    assert outcome.skipped == [{"file_name": "bad.jpg", "error": "bad.jpg is torn"}]
    assert sorted(path.stem for path in (tmp_path / "overlays").iterdir()) == sorted(paths[i].stem for i in places)


def test_labels_that_are_left_out_are_counted(tmp_path: Path) -> None:
    class Crowd(MadeUp):
        def stream(self, paths: list[Path]) -> Iterator[Prediction]:
            for prediction in super().stream(paths):
                yield Prediction(prediction.name, prediction.image, detections(150))

    outcome = recorded(Crowd(), [Path("a.jpg"), Path("b.jpg")], tmp_path)
    assert outcome.drawn == 300
    alone = detections(150).overlay(np.zeros((SIDE, SIDE, 3), dtype=np.uint8), min_longest_side=640)
    assert outcome.unlabelled == 2 * alone.unlabelled
    assert 0 < alone.unlabelled < 150


def test_an_interruption_keeps_every_image_that_was_finished(paths: list[Path], tmp_path: Path) -> None:
    predictor = MadeUp(7, KeyboardInterrupt())
    outcome = recorded(predictor, paths, tmp_path)
    assert outcome.interrupted
    assert [entry["id"] for entry in outcome.images] == list(range(1, 8))
    assert ids(tmp_path) == [i + 1 for i in range(7) for _ in range(i)]
    assert len(list((tmp_path / "overlays").iterdir())) == 7
    assert predictor.closed


def test_ctrl_c_between_detections_and_the_images_entry_loses_neither(
    paths: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have it ignored
    add_entries, calls = ResultsWriter.add_entries, 0

    def interrupted(writer: ResultsWriter, entries: Iterable[dict[str, Any]]) -> None:
        nonlocal calls
        calls += 1
        add_entries(writer, entries)
        if calls == 3:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(ResultsWriter, "add_entries", interrupted)
    try:
        outcome = recorded(MadeUp(), paths, tmp_path)
    finally:
        signal.signal(signal.SIGINT, before)
    assert outcome.interrupted
    images = [entry["id"] for entry in outcome.images]
    assert 3 <= len(images) < COUNT
    assert images == list(range(1, len(images) + 1))
    assert ids(tmp_path) == [i for i in images for _ in range(i - 1)]
    assert len(list((tmp_path / "overlays").iterdir())) == len(images)


def in_the_way(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "overlays").write_text("mine")


@pytest.mark.parametrize(
    ("error", "prepare", "expected"),
    [(BackendError("gives NaN"), lambda folder: None, BackendError), (None, in_the_way, OutputError)],
    ids=["the model fails", "overlays cannot be written"],
)
def test_an_error_ends_the_run_and_leaves_no_results(
    error: Exception | None,
    prepare: Callable[[Path], None],
    expected: type[Exception],
    paths: list[Path],
    tmp_path: Path,
) -> None:
    prepare(tmp_path)
    predictor = MadeUp(5, error)
    with pytest.raises(expected):
        recorded(predictor, paths, tmp_path)
    assert predictor.closed
    assert not (tmp_path / "detections.json").exists()
