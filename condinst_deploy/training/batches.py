"""Training batches, decided by seed and iteration alone: a resumed run sees what an uninterrupted one sees."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import numpy as np
from torch.utils.data import DataLoader, Dataset

from condinst_deploy.data.coco import CocoDataset
from condinst_deploy.data.transforms import TrainingBatch, TrainingExample, TrainingTransform, collate
from condinst_deploy.errors import DataError
from condinst_deploy.support.signals import ignore_signals
from condinst_deploy.training.recipe import Recipe

Key = tuple[int, int]
"""Position in the run's endless row of examples, and index of its image."""


class Examples(Dataset[TrainingExample | DataError]):
    """The data set's images, transformed at random by seed and position."""

    def __init__(self, data: CocoDataset, recipe: Recipe) -> None:
        self._data, self._seed = data, recipe.seed
        schedule, preprocessing = recipe.schedule, recipe.model.preprocessing
        self._late_from = (schedule.iterations - recipe.late_iterations) * schedule.batch_size
        self._early = TrainingTransform(preprocessing, recipe.short_sides, recipe.flip)
        self._late = replace(self._early, short_sides=recipe.late_short_sides or recipe.short_sides)

    def __getitem__(self, key: Key) -> TrainingExample | DataError:
        """The example at a position, or what is wrong with it: the loader would tell an error with its traceback."""
        position, index = key
        transform = self._early if position < self._late_from else self._late
        try:
            return transform(self._data[index], np.random.default_rng((self._seed, position)))
        except DataError as e:
            return e


def batch_keys(length: int, batch_size: int, seed: int, first: int, stop: int) -> Iterator[list[Key]]:
    """Keys of the batches of iterations `first` to `stop - 1`; every epoch is a new order of all images."""
    epoch, order = -1, np.zeros(0, dtype=np.int64)
    for iteration in range(first, stop):
        keys = []
        for position in range(iteration * batch_size, (iteration + 1) * batch_size):
            if position // length != epoch:
                epoch = position // length
                order = np.random.default_rng((seed, epoch, length)).permutation(length)
            keys.append((position, int(order[position % length])))
        yield keys


def batches(data: CocoDataset, recipe: Recipe, first: int) -> Iterator[TrainingBatch]:
    """The run's batches from iteration `first` on.

    Raises:
        DataError: an image cannot be decoded or has another size than annotated.
    """
    schedule = recipe.schedule
    loader = DataLoader(
        Examples(data, recipe),
        batch_sampler=list(batch_keys(len(data), schedule.batch_size, recipe.seed, first, schedule.iterations)),
        num_workers=recipe.data.workers,
        worker_init_fn=_leave_signals_to_the_trainer,
        collate_fn=partial(_collated, pad_divisor=recipe.model.preprocessing.pad_divisor),
    )
    for batch in loader:
        if isinstance(batch, DataError):
            raise batch
        yield batch


def _leave_signals_to_the_trainer(_number: int) -> None:
    """In a process that prepares images: Ctrl-C and a scheduler's SIGTERM reach the whole group.

    A worker that died of one would stop the trainer with an error before it has saved its checkpoint.
    """
    ignore_signals()


def _collated(examples: list[TrainingExample | DataError], pad_divisor: int) -> TrainingBatch | DataError:
    """A batch, or the first error among its examples."""
    errors = [example for example in examples if isinstance(example, DataError)]
    if errors:
        return errors[0]
    return collate([example for example in examples if not isinstance(example, DataError)], pad_divisor=pad_divisor)
