"""Preview of a run: a sheet of augmented examples, and time and memory of a few steps."""

import statistics
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from condinst_deploy.benchmarking.memory import peak_mb
from condinst_deploy.data.coco import CocoDataset
from condinst_deploy.data.data_report import DataReport
from condinst_deploy.data.transforms import TrainingBatch
from condinst_deploy.imaging.drawing import SHEET_SIDE, overlay, write_sheet
from condinst_deploy.masks import Masks
from condinst_deploy.runtime.cores import usable_cores
from condinst_deploy.training.batches import batches
from condinst_deploy.training.recipe import Recipe
from condinst_deploy.training.run import TrainingRun

SHEET = "examples.jpg"
EXAMPLES = 12

STEPS = 3
"""Steps that are timed, after a first one that is slower."""


@dataclass(frozen=True)
class Preview:
    """Preview of a run.

    Attributes:
        iterations: of the whole run.
        epochs: how often it sees each image.
        seconds: of all steps, by the median of a few, with the time to load their images; evaluations are not among
            them.
        memory_mb: largest memory of these steps: on a GPU PyTorch's, on a CPU the process's; None: not known here.
        sheet: examples as the network will see them, with their masks and boxes.
        data: classes of the training set, and what is odd in it.
    """

    iterations: int
    epochs: float
    seconds: float
    memory_mb: float | None
    sheet: Path
    data: DataReport

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self) | {"sheet": str(self.sheet), "data": self.data.to_dict()}

    def text(self) -> str:
        """One line a fact."""
        hours, minutes = divmod(round(self.seconds / 60), 60)
        duration = f"{hours} h {minutes} min" if self.seconds >= 60 else f"{self.seconds:.0f} s"
        lines = [f"{self.iterations} iterations, each image {self.epochs:.1f} times"]
        lines += [f"about {duration} by the time of {STEPS} steps, and the evaluations"]
        if self.memory_mb is not None:
            lines += [f"{self.memory_mb / 1000:.1f} GB of memory in these steps"]
        return "\n".join([*lines, f"examples with masks: {self.sheet}"])


def preview(run: TrainingRun, data: CocoDataset, report: DataReport, folder: Path) -> Preview:
    """Draw examples and time a few steps; the run has changed afterwards and is not to be saved.

    Args:
        run: before its first step.
        data: its training set.
        report: what was found in it.
        folder: of the run.

    Raises:
        DataError: an image is damaged.
        OutputError: the sheet cannot be written.
    """
    recipe = run.recipe
    draw_examples(data, recipe, folder / SHEET)
    on_gpu = run.device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(run.device)
    here = replace(recipe, data=replace(recipe.data, workers=0))  # loaded in this process, where it can be timed
    steps = _steps(batches(data, here, run.iteration, run.ranks), recipe.execution.accumulate)
    seconds, started = [], time.perf_counter()
    for parts in islice(steps, 1 + STEPS):
        loaded = time.perf_counter()
        run.step(*parts)
        if on_gpu:
            torch.cuda.synchronize(run.device)
        ended = time.perf_counter()
        seconds.append(seconds_of_iteration(loaded - started, ended - loaded, recipe.data.workers))
        started = ended
    left = recipe.schedule.iterations - run.iteration + len(seconds)
    return Preview(
        iterations=recipe.schedule.iterations,
        epochs=recipe.schedule.iterations * recipe.schedule.batch_size / len(data),
        seconds=left * statistics.median(seconds[1:] or seconds),
        memory_mb=torch.cuda.max_memory_allocated(run.device) / 1e6 if on_gpu else peak_mb(),
        sheet=folder / SHEET,
        data=report,
    )


def seconds_of_iteration(loading: float, step: float, workers: int) -> float:
    """Time of an iteration: images are loaded before a step, or by processes of their own during the steps.

    Args:
        loading: seconds in which one process loads the images of an iteration.
        step: seconds of its step.
        workers: processes that load images; as many as there are cores can help.
    """
    if workers == 0:
        return loading + step
    return max(loading / min(workers, usable_cores()), step)


def draw_examples(data: CocoDataset, recipe: Recipe, path: Path) -> None:
    """Write a sheet of the run's first examples, as the network sees them.

    Raises:
        DataError: an image is damaged.
        OutputError: the sheet cannot be written.
    """
    shown = []
    for batch in batches(data, recipe, 0):
        for image, (height, width), targets in zip(
            batch.images, batch.image_sizes.tolist(), batch.targets, strict=True
        ):
            pixels = np.ascontiguousarray(image[:, :height, :width].permute(1, 2, 0).numpy())
            labels = targets.labels.tolist()
            names = [data.class_names[label] for label in labels]
            masks = Masks.from_dense(targets.masks[:, :height, :width].numpy())
            shown.append(overlay(pixels, targets.boxes.numpy(), names, masks, labels, SHEET_SIDE).image)
        if len(shown) >= EXAMPLES:
            break
    write_sheet(shown[:EXAMPLES], path)


def _steps(loader: Iterator[TrainingBatch], parts: int) -> Iterator[list[TrainingBatch]]:
    while step := list(islice(loader, parts)):
        yield step
