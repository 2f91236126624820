"""Observers: which stages they see, for which images, and what they cost when there are none."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from condinst_deploy import Predictor, StageTimer
from condinst_deploy.errors import BackendError, CondInstError, ImageError
from condinst_deploy.runtime.observer import BATCH, DECODE, NETWORK, POSTPROCESS, RESIZE, STAGES, observed
from condinst_deploy.runtime.preprocessing.types import InputOptions, Pixels
from tests.support.models import noise_image
from tests.support.predictions import IMAGE

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Three images of one padded shape and one of another."""
    paths = [tmp_path / f"{i}.png" for i in range(4)]
    for i, path in enumerate(paths):
        Image.fromarray(noise_image(i, *((90, 60) if i == 1 else (128, 200)))).save(path)
    return paths


@pytest.mark.parametrize("pixels", ["exact", "fast"])
def test_one_image_goes_through_every_stage_in_order(pixels: Pixels, slim_onnx: Path, files: list[Path]) -> None:
    timer = StageTimer()
    with Predictor(slim_onnx, device="cpu", inputs=InputOptions(pixels), observer=timer) as predictor:
        predictor(files[0])
    times = timer.take()
    assert [each.stage for each in times] == list(STAGES)
    assert {each.images for each in times} == {(str(files[0]),)}
    assert all(before.end <= after.start for before, after in pairwise(times))
    assert all(each.seconds >= 0 and each.cpu_seconds >= 0 for each in times)
    assert timer.take() == []


def test_a_stream_shows_every_image_and_every_batch(slim_onnx: Path, files: list[Path]) -> None:
    timer = StageTimer()
    with Predictor(slim_onnx, device="cpu", batch_size=2, observer=timer) as predictor:
        assert len(list(predictor.stream(files))) == 4
    assert set(timer.seconds()) == set(STAGES)
    names = [str(path) for path in files]
    seen: dict[str, list[tuple[str, ...]]] = {stage: [] for stage in STAGES}
    for each in timer.take():
        seen[each.stage].append(each.images)
    for stage in (DECODE, RESIZE):
        assert sorted(seen[stage]) == [(name,) for name in names]
    for stage in (BATCH, NETWORK, POSTPROCESS):
        assert sorted(seen[stage]) == [(names[0], names[2]), (names[1],), (names[3],)]


def test_an_observer_runs_around_the_stage_in_its_thread(slim_onnx: Path, files: list[Path]) -> None:
    open_stages: dict[int, str] = {}
    threads: dict[str, str] = {}

    @contextmanager
    def observer(stage: str, images: Sequence[str]) -> Iterator[None]:
        thread = threading.get_ident()
        assert thread not in open_stages  # stages of one thread do not overlap
        open_stages[thread] = stage
        threads[stage] = threading.current_thread().name
        yield
        assert open_stages.pop(thread) == stage

    with Predictor(slim_onnx, device="cpu", observer=observer) as predictor:
        assert len(list(predictor.stream(files))) == 4
    assert open_stages == {}
    assert {stage: name.split("_")[0] for stage, name in threads.items()} == {
        DECODE: "condinst-prepare",
        RESIZE: "condinst-prepare",
        BATCH: "condinst-batch",
        NETWORK: "condinst-network",
        POSTPROCESS: "condinst-finish",
    }


def test_a_stage_that_fails_is_recorded(slim_onnx: Path, tmp_path: Path) -> None:
    timer = StageTimer()
    with Predictor(slim_onnx, device="cpu", observer=timer) as predictor, pytest.raises(ImageError):
        predictor(tmp_path / "missing.png")
    assert [each.stage for each in timer.take()] == [DECODE]


def test_an_error_of_an_observer_is_an_error_of_the_stage(slim_onnx: Path) -> None:
    @contextmanager
    def observer(stage: str, images: Sequence[str]) -> Iterator[None]:
        if stage == NETWORK:
            raise BackendError("the observer failed")
        yield

    with Predictor(slim_onnx, device="cpu", observer=observer) as predictor:
        for call in (predictor, lambda image: list(predictor.stream([image]))):
            with pytest.raises(BackendError, match="the observer failed"):
                call(IMAGE)


@pytest.mark.parametrize("stage", [DECODE, NETWORK])
def test_an_observer_that_returns_no_context_manager_is_named(stage: str, slim_onnx: Path) -> None:
    def observer(own: str, images: Sequence[str]) -> Any:
        return nullcontext() if own != stage else None

    expected = f"observer returned None for the stage {stage}; expected a context manager"
    with Predictor(slim_onnx, observer=observer) as predictor, pytest.raises(CondInstError, match=expected):
        predictor(IMAGE)


def test_a_timer_synchronises_before_it_takes_the_end() -> None:
    calls = []
    timer = StageTimer(lambda: calls.append("synchronised"))
    with timer(NETWORK, ("a", "b")):
        calls.append("ran")
    assert calls == ["ran", "synchronised"]
    (only,) = timer.take()
    assert (only.stage, only.images) == (NETWORK, ("a", "b"))


def test_without_an_observer_all_stages_share_one_empty_context() -> None:
    assert observed(None, NETWORK, ("a",)) is observed(None, DECODE, ("b",))
