"""A stream of 20,000 images of mixed sizes through the real stream, policy, memory and contexts.

The driver and the engine are the strict doubles, so nothing is computed; order, lifetimes and sizes are checked. The
sizes are drawn from a file, CONDINST_SIZE_MIX names another one: JSON with `sizes`, a list of [width, height, count].
"""

import json
import os
import random
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from condinst_deploy.contract import ImageGeometry, Preprocessing
from condinst_deploy.runtime.batching import rounded_batch
from condinst_deploy.runtime.cuda.gpu import Gpu
from condinst_deploy.runtime.cuda.gpu_batches import GpuOutputs, PinnedInputs
from condinst_deploy.runtime.pipeline import Stages, predictions
from condinst_deploy.runtime.predictor_options import batching_for
from condinst_deploy.runtime.preprocessing.types import Inputs, Prepared
from condinst_deploy.runtime.tensorrt.backend import TensorRtBackend
from tests.support.engine_manifests import engine_manifest, image_profile
from tests.support.strict_driver import StrictDriver
from tests.support.strict_engine import StrictEngine

MIX = Path(os.environ.get("CONDINST_SIZE_MIX", Path(__file__).with_name("image_sizes.json")))
IMAGES, SETTLING = 20_000, 1_000
MOST_MADE = 40
LEAST_MEAN = 4.0
LEAST_REPLAYED = 0.6


def drawn_sizes(count: int, seed: int) -> list[tuple[int, int]]:
    """(height, width) of images."""
    rows = json.loads(MIX.read_text())["sizes"]
    chosen = random.Random(seed).choices(rows, [row[2] for row in rows], k=count)
    return [(height, width) for width, height, _ in chosen]


@dataclass
class Record:
    """Record of the stream."""

    batches: list[int]
    given: int = 0
    made_early: int = 0


@pytest.fixture(scope="module")
def run() -> Iterator[tuple[Record, TensorRtBackend, StrictDriver]]:
    driver = StrictDriver(data=False)
    manifest = engine_manifest(image_profile((1, 32, 32), (8, 1344, 1344)))
    backend = TensorRtBackend(StrictEngine(driver, manifest), manifest, Gpu(driver))  # type: ignore[arg-type]
    record = Record([])

    def prepare(size: tuple[int, int], name: str) -> Prepared:
        geometry = ImageGeometry.of(size, Preprocessing())
        shape = (1, 3, *geometry.padded)
        with backend.gpu.current():
            block = backend.gpu.pinned.taken(int(np.prod(shape)))
        inputs = PinnedInputs(block, shape, np.array([geometry.resized], np.int32))
        return Prepared(np.empty((0, 0, 3), np.uint8), geometry, inputs)

    collated: deque[int] = deque()

    def collate(parts: Sequence[Inputs]) -> Any:
        collated.append(len(parts))
        return backend.collate(parts)

    def forward(inputs: Any) -> Any:
        outputs = backend.forward(inputs)
        assert isinstance(outputs, GpuOutputs)
        if record.given < SETTLING:
            (slot,) = backend.slots.idle()
            record.made_early = slot.contexts.made
        record.given += collated.popleft()  # batches run in the order in which they are made
        return outputs

    def postprocess(outputs: GpuOutputs, geometries: Sequence[ImageGeometry]) -> list[Any]:
        assert outputs.mask_logits.shape[0] == rounded_batch(len(geometries), 8)
        record.batches.append(len(geometries))
        with backend.gpu.side_stream() as stream:
            stream.wait(outputs.ready)
            counts = stream.downloaded([outputs.num_detections])
        return [len(counts)] * len(geometries)

    limits = batching_for("cuda:0", 8, None)
    stages = Stages(
        prepare,
        collate,
        forward,
        postprocess,
        batch_size=8,
        window=limits.section,
        most_waiting=limits.most_waiting,
        longest_wait=limits.longest_wait,
    )
    found = sum(prediction.error is None for prediction in predictions(stages, drawn_sizes(IMAGES, seed=1)))
    assert found == IMAGES
    yield record, backend, driver
    backend.close()
    assert driver.misuses == []


def test_few_contexts_and_graphs_are_made_once_the_stream_has_settled(
    run: tuple[Record, TensorRtBackend, StrictDriver],
    record_testsuite_property: Callable[[str, object], None],
) -> None:
    record, backend, _ = run
    (slot,) = backend.slots.idle()
    record_testsuite_property("contexts and graphs", f"{record.made_early} early, {slot.contexts.made} in all")
    record_testsuite_property("images in a batch", f"{IMAGES / len(record.batches):.2f}")
    record_testsuite_property("replayed", f"{slot.contexts.replays / len(record.batches):.3f}")
    assert slot.contexts.made - record.made_early <= MOST_MADE


def test_batches_are_at_least_half_full_and_most_replay_a_graph(
    run: tuple[Record, TensorRtBackend, StrictDriver],
) -> None:
    record, backend, _ = run
    (slot,) = backend.slots.idle()
    assert sum(record.batches) == IMAGES
    assert IMAGES / len(record.batches) >= LEAST_MEAN
    assert slot.contexts.replays / len(record.batches) >= LEAST_REPLAYED


def test_memory_is_bounded_and_the_doubles_saw_no_misuse(run: tuple[Record, TensorRtBackend, StrictDriver]) -> None:
    _, backend, driver = run
    assert driver.misuses == []
    largest = 8 * 3 * 1344 * 1344
    # a few batches, their outputs, and one slot's activations
    assert driver.allocated() < 60 * largest
    assert driver.allocated(pinned=True) < (128 + 8 + 8 + 64) * largest / 8
    assert backend.gpu.memory.allocated == driver.allocated()
