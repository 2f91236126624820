"""Batches in one piece of memory: the same tensors, and one descriptor for each."""

import errno
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from condinst_deploy.data.shapes_dataset import generate_shapes
from condinst_deploy.data.transforms import Source, TrainingBatch
from condinst_deploy.model.targets import ImageTargets
from condinst_deploy.training import batches as module
from condinst_deploy.training.batches import PreparationError, batches
from condinst_deploy.training.packed_batch import SharingError, packed
from condinst_deploy.training.recipe import Recipe
from condinst_deploy.training.trainer import open_sets
from tests.support.recipes import tiny_recipe

pytestmark = pytest.mark.usefixtures("one_thread")


def a_batch(counts: list[int], height: int, width: int, seed: int) -> TrainingBatch:
    generator = torch.Generator().manual_seed(seed)
    targets = tuple(
        ImageTargets(
            torch.rand((n, 4), generator=generator),
            torch.randint(0, 80, (n,), generator=generator),
            torch.rand((n, height, width), generator=generator) > 0.5,
        )
        for n in counts
    )
    images = torch.randint(0, 256, (len(counts), 3, height, width), dtype=torch.uint8, generator=generator)
    return TrainingBatch(images, torch.randint(1, 99, (len(counts), 2), generator=generator), targets)


def tensors_of(batch: TrainingBatch) -> list[torch.Tensor]:
    targets = [tensor for each in batch.targets for tensor in (each.boxes, each.labels, each.masks)]
    return [batch.images, batch.image_sizes, *targets]


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize(("counts", "height", "width"), [([0], 1, 1), ([3, 0, 1], 5, 7), ([0, 0], 32, 96), ([2], 3, 1)])
def test_the_tensors_come_out_as_they_went_in(counts: list[int], height: int, width: int, shared: bool) -> None:
    batch = a_batch(counts, height, width, seed=height)
    sources = [Source(i, 10 + i, f"{i}.png") for i in range(len(counts))]
    whole = packed(batch, sources, shared=shared)
    found = whole.unpacked()
    assert whole.content.is_shared() == shared
    assert found.sources == tuple(sources)
    for one, other in zip(tensors_of(found), tensors_of(batch), strict=True):
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
        assert torch.equal(one, other)
        assert one.is_contiguous()


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    folder = tmp_path_factory.mktemp("shapes")
    recipe = tiny_recipe(generate_shapes(folder, "train", 8), generate_shapes(folder, "val", 2), 64)
    data = replace(recipe.data, workers=1, prefetch=1)
    schedule = replace(recipe.schedule, iterations=6, batch_size=4, warmup_iterations=0)
    return replace(recipe, data=data, schedule=schedule, short_sides=(64,))


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_a_batch_takes_one_descriptor_however_many_images_it_has(recipe: Recipe) -> None:
    data = open_sets(recipe).train
    made = batches(data, recipe, 0)
    kept = [next(made)]
    before = descriptors()
    kept.extend(made)  # now the process has ended, too
    assert len(kept) == 6
    assert descriptors() <= before + 5


def test_a_process_without_a_descriptor_left_says_what_to_do(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(*_: object, **__: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(module, "packed", none_left)
    with pytest.raises(PreparationError, match=r"descriptor is left \(.*Too many open files\); raise the limit"):
        next(batches(open_sets(recipe).train, recipe, 0))


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("received 0 items of ancdata"),
        RuntimeError("Too many open files. Communication with the workers is no longer possible. Please ..."),
        OSError(errno.EMFILE, os.strerror(errno.EMFILE)),
    ],
)
def test_a_trainer_without_a_descriptor_left_says_what_to_do(
    error: Exception, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Failing(DataLoader[object]):
        def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
            raise error
            yield

    monkeypatch.setattr(module, "DataLoader", Failing)
    with pytest.raises(PreparationError, match=r"no file descriptor is left .*ulimit -n"):
        next(batches(open_sets(recipe).train, recipe, 0))


def test_hardly_a_descriptor_left_is_found_before_the_batch_is_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    number_of = os.open
    opened: list[int] = []

    def few(path: str, flags: int) -> int:
        if len(opened) == 3:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        opened.append(number_of(path, flags))
        return opened[-1]

    monkeypatch.setattr(os, "open", few)
    with pytest.raises(OSError, match="Too many open files"):
        packed(a_batch([1], 4, 4, seed=0), [Source(0, 1, "a.png")], shared=True)
    monkeypatch.undo()
    for number in opened:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(number)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("unable to open shared memory object </torch_7> in read-write mode: Too many open files (24)", OSError),
        (
            "unable to open shared memory object </torch_7> in read-write mode: Too many open files in system (23)",
            OSError,
        ),
        ("unable to allocate shared memory(shm) for file </torch_7>: No space left on device (28)", SharingError),
    ],
)
def test_what_pytorch_says_of_shared_memory_is_told_apart(
    said: str, expected: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(_: torch.Tensor) -> None:
        raise RuntimeError(said)

    monkeypatch.setattr(torch.Tensor, "share_memory_", refused)
    with pytest.raises(expected):
        packed(a_batch([1], 4, 4, seed=0), [Source(0, 1, "a.png")], shared=True)


def test_an_error_that_is_none_of_shared_memory_is_raised_as_it_is(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("a defect")

    monkeypatch.setattr(module, "packed", broken)
    here = replace(recipe, data=replace(recipe.data, workers=0))
    with pytest.raises(RuntimeError, match=r"^a defect$"):
        next(batches(open_sets(recipe).train, here, 0))
    with pytest.raises(RuntimeError, match="a defect"):
        next(batches(open_sets(recipe).train, recipe, 0))
