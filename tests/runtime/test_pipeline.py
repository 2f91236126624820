"""The pipeline on made-up stages: order, overlap, batches, errors, bounds, and no thread left behind."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from typing import Any

import numpy as np
import pytest

from condinst_deploy.contract import ImageGeometry, NetworkInputs, Preprocessing
from condinst_deploy.errors import BackendError, ImageError
from condinst_deploy.runtime.pipeline import Prediction, Stages, predicted, predictions
from condinst_deploy.runtime.preprocessing.batch import network_inputs, stacked
from condinst_deploy.runtime.preprocessing.types import Prepared

SECONDS = 60
"""Only for tests that would otherwise hang: what is waited for comes at once, or never."""

SMALL = Preprocessing(short_side=32, long_side=64)
SQUARE, WIDE = (32, 32), (32, 64)


def image(value: int, size: tuple[int, int] = SQUARE) -> np.ndarray[Any, Any]:
    return np.full((*size, 3), value, dtype=np.uint8)


def prepared(source: Any, name: str) -> Prepared:
    if isinstance(source, Exception):
        raise source
    geometry = ImageGeometry.of(source.shape[:2], SMALL)
    return Prepared(source, geometry, network_inputs([source], [geometry]))


def first_pixels(inputs: NetworkInputs) -> Any:
    """Output of this network: the value of every image."""
    return inputs.images[:, 0, 0, 0].tolist()


def stages(**changes: Any) -> Stages:
    usual: dict[str, Any] = {"prepare": prepared, "collate": stacked, "forward": first_pixels}
    usual |= {"postprocess": lambda outputs, geometries: outputs[: len(geometries)], "batch_size": 1, "window": 1}
    return Stages(**(usual | changes))


def value(prediction: Prediction) -> Any:
    """Value that the made-up stages return instead of detections."""
    return prediction.detections


def found(made: Stages, sources: Any) -> list[Any]:
    return [value(prediction) for prediction in predictions(made, sources)]


def ours() -> list[str]:
    """Names of the pipelines' threads that live."""
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("condinst-")]


@pytest.fixture(autouse=True)
def _no_thread_is_left_behind() -> Iterator[None]:
    yield
    assert ours() == []


@pytest.mark.parametrize("count", [0, 1, 2, 5, 40])
@pytest.mark.parametrize(("batch_size", "window"), [(1, 1), (2, 8), (4, 4)])
def test_every_image_has_its_result_in_order(count: int, batch_size: int, window: int) -> None:
    sources = [image(i, WIDE if i % 3 else SQUARE) for i in range(count)]
    made = stages(batch_size=batch_size, window=window, workers=3)
    results = list(predictions(made, iter(sources)))
    assert [value(result) for result in results] == list(range(count))
    assert [result.name for result in results] == [f"image {i}" for i in range(count)]
    assert all(result.image is source for result, source in zip(results, sources, strict=True))


def test_an_image_that_takes_longer_keeps_its_place() -> None:
    second_is_ready = threading.Event()

    def prepare(source: Any, name: str) -> Prepared:
        if source[0, 0, 0] == 0:
            assert second_is_ready.wait(SECONDS)
        if source[0, 0, 0] == 1:
            second_is_ready.set()
        return prepared(source, name)

    assert found(stages(prepare=prepare, workers=2), [image(i) for i in range(4)]) == [0, 1, 2, 3]


def test_decoding_network_and_postprocessing_work_at_the_same_time() -> None:
    third_is_decoded, second_runs = threading.Event(), threading.Event()

    def prepare(source: Any, name: str) -> Prepared:
        if source[0, 0, 0] == 2:
            third_is_decoded.set()
        return prepared(source, name)

    def forward(inputs: NetworkInputs) -> Any:
        if first_pixels(inputs) == [1]:
            second_runs.set()
            assert third_is_decoded.wait(SECONDS)  # while the second is in the network
        return first_pixels(inputs)

    def postprocess(outputs: Any, geometries: Any) -> Any:
        if outputs == [0]:
            assert second_runs.wait(SECONDS)  # while the first is postprocessed
        return outputs

    made = stages(prepare=prepare, forward=forward, postprocess=postprocess)
    assert found(made, [image(i) for i in range(3)]) == [0, 1, 2]


def batches_by_hand(sizes: list[tuple[int, int]], batch_size: int, window: int) -> list[list[int]]:
    """Of each window, the images of each size in turn, `batch_size` at a time."""
    batches = []
    for start in range(0, len(sizes), window):
        members = range(start, min(start + window, len(sizes)))
        for size in set(sizes):
            same = [i for i in members if sizes[i] == size]
            batches += [same[k : k + batch_size] for k in range(0, len(same), batch_size)]
    return sorted(batches)


@pytest.mark.parametrize(("batch_size", "window"), [(1, 1), (2, 2), (2, 8), (3, 12), (4, 16)])
def test_equal_padded_shapes_share_batches_within_a_window(batch_size: int, window: int) -> None:
    rng = np.random.default_rng(batch_size)
    sizes = [(SQUARE, WIDE, (64, 32))[i] for i in rng.integers(0, 3, 29)]
    seen = []

    def forward(inputs: NetworkInputs) -> Any:
        seen.append(first_pixels(inputs))
        return seen[-1]

    made = stages(forward=forward, batch_size=batch_size, window=window, workers=2)
    assert found(made, [image(i, size) for i, size in enumerate(sizes)]) == list(range(29))
    assert sorted(seen) == batches_by_hand(sizes, batch_size, window)


def test_a_fixed_batch_is_filled_up_with_blank_images() -> None:
    seen = []

    def forward(inputs: NetworkInputs) -> Any:
        seen.append((inputs.images.shape[0], first_pixels(inputs)))
        return seen[-1][1]

    made = stages(forward=forward, collate=partial(stacked, batch=3), batch_size=2, window=8)
    assert found(made, [image(i) for i in (7, 8, 9)]) == [7, 8, 9]
    assert sorted(seen) == [(3, [7, 8, 0]), (3, [9, 0, 0])]


# ---- how many images are taken


@pytest.mark.parametrize(("batch_size", "window", "workers"), [(1, 1, 1), (1, 1, 4), (2, 8, 1)])
def test_no_more_images_are_held_than_said(batch_size: int, window: int, workers: int) -> None:
    taken = 0

    def endless() -> Iterator[Any]:
        nonlocal taken
        while True:
            taken += 1
            yield image(0)

    made = stages(batch_size=batch_size, window=window, workers=workers)
    stream = predictions(made, endless())
    assert taken == 0
    with closing(stream):
        for given in range(50):
            next(stream)
            assert taken - given <= made.max_in_flight


def test_a_result_does_not_wait_for_more_than_one_image_of_a_slow_source() -> None:
    finished = [threading.Event() for _ in range(3)]
    taken = 0

    def camera() -> Iterator[Any]:
        nonlocal taken
        for i in range(3):
            taken += 1
            yield image(i)
            assert finished[i].wait(SECONDS)  # the next image comes when the result has long been there

    def postprocess(outputs: Any, geometries: Any) -> Iterator[Any]:
        yield from outputs
        finished[outputs[0]].set()  # what was yielded has been handed on by now

    stream = predictions(stages(postprocess=postprocess, workers=8), camera())
    for i in range(2):
        assert value(next(stream)) == i
        assert taken == i + 2
    assert value(next(stream)) == 2


def test_images_come_from_the_callers_thread() -> None:
    threads = set()

    def source() -> Iterator[Any]:
        for i in range(9):
            threads.add(threading.current_thread())
            yield image(i)

    assert found(stages(), source()) == list(range(9))
    assert threads == {threading.current_thread()}


def test_every_thread_begins_as_asked() -> None:
    entered, used = set(), set()

    def forward(inputs: NetworkInputs) -> Any:
        used.add(threading.get_ident())
        return first_pixels(inputs)

    def prepare(source: Any, name: str) -> Prepared:
        used.add(threading.get_ident())
        return prepared(source, name)

    made = stages(prepare=prepare, forward=forward, enter_thread=lambda: entered.add(threading.get_ident()))
    assert found(made, [image(i) for i in range(3)]) == [0, 1, 2]
    assert used <= entered
    assert threading.get_ident() not in entered


# ---- errors


def test_an_error_stays_with_its_image() -> None:
    sources = [image(0), ImageError("torn"), image(2), ValueError("odd"), MemoryError("large"), image(5)]
    results = list(predictions(stages(batch_size=2, window=8), sources))
    assert [value(result) for result in results] == [0, None, 2, None, None, 5]
    assert [str(result.error) for result in results if result.error is not None] == [
        "torn",
        "image 3 cannot be prepared for the network (ValueError: odd)",
        "image 4 cannot be prepared for the network (MemoryError: large)",
    ]
    assert all((result.image is None) == (result.error is not None) for result in results)
    assert str(predicted(stages(), [ValueError("odd")])[0].error).endswith("(ValueError: odd)")


@pytest.mark.parametrize("batch_size", [1, 2])
def test_an_error_of_the_backend_while_an_image_is_prepared_is_no_error_of_the_image(batch_size: int) -> None:
    """The image is written to memory of the backend; the stream ends as after an error of the network."""
    sources = [image(0), image(1), BackendError("the host has no memory left"), image(3)]
    stream = predictions(stages(batch_size=batch_size, window=batch_size), sources)
    assert [value(next(stream)) for _ in range(2)] == [0, 1]
    with pytest.raises(BackendError, match="the host has no memory left"):
        next(stream)
    with pytest.raises(BackendError, match="the host has no memory left"):
        predicted(stages(), sources[2:3])
    assert ours() == []


def broken(outputs_or_inputs: Any, *_: Any) -> Any:
    values = first_pixels(outputs_or_inputs) if isinstance(outputs_or_inputs, NetworkInputs) else outputs_or_inputs
    if 3 in values:
        raise BackendError("gives NaN")
    return values


@pytest.mark.parametrize("stage", ["forward", "postprocess"])
def test_an_error_of_the_model_is_raised_after_the_results_before_it(stage: str) -> None:
    stream = predictions(stages(**{stage: broken}), [image(i) for i in range(9)])
    assert [value(next(stream)) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(BackendError, match="gives NaN"):
        next(stream)
    assert ours() == []


def test_an_interruption_of_the_network_reaches_the_caller() -> None:
    def forward(inputs: NetworkInputs) -> Any:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        found(stages(forward=forward), [image(0)])


@pytest.mark.parametrize(("batch_size", "window"), [(1, 1), (2, 8)])
def test_an_error_of_the_iterable_is_raised_after_the_results_before_it(batch_size: int, window: int) -> None:
    def source() -> Iterator[Any]:
        yield from (image(0), image(1), image(2))
        raise OSError("the camera was pulled out")

    results: list[Any] = []
    with pytest.raises(OSError, match="pulled out"):
        results.extend(
            value(prediction) for prediction in predictions(stages(batch_size=batch_size, window=window), source())
        )
    # `extend` keeps what came before the error
    assert results == [0, 1, 2]


# ---- stopping early


def endless() -> Iterator[Any]:
    while True:
        yield image(1)


def closes(stream: Any) -> None:
    stream.close()


def raises(stream: Any) -> None:
    with pytest.raises(RuntimeError), closing(stream):
        raise RuntimeError


def throws(stream: Any) -> None:
    with pytest.raises(KeyboardInterrupt):
        stream.throw(KeyboardInterrupt)


@pytest.mark.parametrize("stop", [closes, raises, throws])
@pytest.mark.parametrize("results", [0, 1, 5])
def test_a_stream_that_is_stopped_leaves_no_thread(results: int, stop: Callable[[Any], None]) -> None:
    stream = predictions(stages(batch_size=2, window=8, workers=3), endless())
    for _ in range(results):
        next(stream)
    assert bool(ours()) == bool(results)
    stop(stream)
    assert ours() == []


@pytest.mark.usefixtures("ctrl_c_interrupts")
def test_ctrl_c_while_a_result_is_waited_for_leaves_no_thread() -> None:
    def forward(inputs: NetworkInputs) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        return first_pixels(inputs)

    with pytest.raises(KeyboardInterrupt), closing(predictions(stages(forward=forward), [image(1)] * 50)) as stream:
        list(stream)
    assert ours() == []


def test_what_waits_is_dropped_when_a_stream_is_stopped() -> None:
    started, go_on, runs = threading.Event(), threading.Event(), []

    def forward(inputs: NetworkInputs) -> Any:
        runs.append(first_pixels(inputs))
        if len(runs) == 2:
            started.set()
            assert go_on.wait(SECONDS)
        return runs[-1]

    stream = predictions(stages(forward=forward, workers=8), endless())
    next(stream)
    assert started.wait(SECONDS)
    stopping = threading.Thread(target=stream.close)
    stopping.start()
    # the queue of the network is emptied before the run that goes on is waited for
    while any(thread.name.startswith("condinst-prepare") for thread in threading.enumerate()):
        stopping.join(0.01)
    go_on.set()
    stopping.join(SECONDS)
    assert len(runs) == 2


# ---- one batch in the caller's thread


def test_a_batch_in_the_callers_thread_keeps_its_order_and_its_errors() -> None:
    seen = []

    def forward(inputs: NetworkInputs) -> Any:
        seen.append(first_pixels(inputs))
        return seen[-1]

    made = stages(forward=forward, batch_size=4, window=4)
    results = predicted(made, [image(5), ImageError("torn"), image(7)])
    assert [value(result) for result in results] == [5, None, 7]
    assert [result.name for result in results] == ["image 0", "image 1", "image 2"]
    assert str(results[1].error) == "torn"
    assert seen == [[5, 7]]  # one run
    assert [str(result.error) for result in predicted(made, [ImageError("torn")])] == ["torn"]
    assert predicted(made, []) == []
    assert len(seen) == 1
