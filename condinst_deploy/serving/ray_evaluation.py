"""Models of an evaluation on Ray: the same detections as in one process, from many."""

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from condinst_deploy.contract import InstanceDetections
from condinst_deploy.contract.artifacts import precision_for
from condinst_deploy.errors import DataError, ImageError
from condinst_deploy.evaluation.coco_metrics import Entry
from condinst_deploy.evaluation.evaluator import Run
from condinst_deploy.evaluation.provenance import images_with_states, run_settings, with_images
from condinst_deploy.runtime.predictor import Predictor
from condinst_deploy.serving.batch.batch_driver import Plan, planned
from condinst_deploy.serving.batch.batch_options import BatchOptions, DetectionOptions
from condinst_deploy.serving.batch.output_rows import ImageRow, coco_entries, read_part
from condinst_deploy.serving.batch.parts import part_name
from condinst_deploy.serving.batch.ray_driver import run_on_ray
from condinst_deploy.serving.batch.reporting import Event, Totals
from condinst_deploy.serving.ray_session import RayOptions
from condinst_deploy.support.atomic_write import atomic_path
from condinst_deploy.support.digests import sha256_of_text
from condinst_deploy.support.json_text import json_text

FOLDER = "ray"
SHARD = 64
"""Images of a shard, or some more: whole windows, so that the same images share batches as in one process."""


@dataclass(frozen=True)
class RayDetector:
    """Runs a model on Ray, in place of `condinst_deploy.evaluation.evaluator.detect`.

    The parts take the journal's place: an interrupted evaluation continues.
    """

    options: RayOptions

    def __call__(
        self, predictor: Predictor, source: Path, name: str, run: Run
    ) -> tuple[list[Entry], dict[str, Any], int]:
        """Run a model on every image that has no part yet.

        Raises:
            ConfigError: the model's classes are not the data set's.
            DataError: an image has another size than annotated.
            ImageError: an image cannot be read.
            BackendError: Ray is not there.
        """
        ground_truth, options = run.ground_truth, run.options
        category_ids = ground_truth.category_ids_of(predictor.manifest, str(source))
        settings, states = run_settings(predictor, source, ground_truth, options), images_with_states(ground_truth)
        window = predictor.window
        predictor.close()  # the workers load their own
        digest = sha256_of_text(json_text([settings, states], "the settings", sort_keys=True))[:12]
        folder = options.out / FOLDER / f"{source.name[:60]}.{digest}"
        if options.fresh:
            shutil.rmtree(folder, ignore_errors=True)
        batch = BatchOptions(
            input=str(_written_list(folder, ground_truth.paths)),
            model=source.absolute(),
            out=str(folder.absolute()),
            detection=DetectionOptions(
                options.device,
                options.score_threshold,
                batch_size=options.batch_size,
                precision=precision_for(source, options.precision),
                canvases=options.canvases,
            ),
            shard_size=-(-SHARD // window) * window,
        )
        with planned(batch) as plan:
            progress = _Progress(plan, folder, name, run)
            run_on_ray(plan, self.options, progress, progress.images_under_way)
            entries = _entries(folder, run, category_ids)
        return entries, with_images(settings, states), plan.finished_images


def _written_list(folder: Path, paths: Sequence[Path]) -> Path:
    names = [str(path.absolute()) for path in paths]
    for name in names:
        if "\n" in name or name.endswith("\r"):
            raise DataError(f"the name {name!r} has a line break; rename the image, or evaluate without --ray")
    path = folder.with_name(f"{folder.name}.txt")
    with atomic_path(path) as temporary:
        text = "".join(f"{name}\n" for name in names)
        temporary.write_text(text, encoding="utf-8", errors="surrogateescape")
    return path.absolute()


class _Progress:
    """Listener that tells the evaluation how far a model is, and ends it where an image cannot be evaluated."""

    def __init__(self, plan: Plan, folder: Path, name: str, run: Run) -> None:
        self._plan, self._folder, self._name, self._run = plan, folder, name, run
        self._totals = Totals()
        self.images_under_way(0)

    def __call__(self, event: Event) -> None:
        """Take an event.

        Raises:
            DataError: a shard was left out.
            ImageError: an image cannot be read.
        """
        self._totals(event)
        if event.kind == "failed":
            raise DataError(f"{self._name}: {self._totals.failed_shards[-1]}")
        if event.report is not None and event.report.failed:
            for _ in _read(self._folder / part_name(event.report.index, "parquet")):
                pass  # to the image that cannot be read

    def images_under_way(self, images: int) -> None:
        """Take how many images of the shards under way are done."""
        done = self._plan.finished_images + self._totals.images + images
        self._run.on_progress(self._name, done, self._plan.images)


def _entries(folder: Path, run: Run, category_ids: Sequence[int]) -> list[Entry]:
    """Results of all images with the data set's ids, in its order."""
    ground_truth, entries = run.ground_truth, list[Entry]()
    for part in sorted(folder.glob("part-*.parquet")):
        for row, detections in _read(part):
            image_id = ground_truth.image_ids[row.position]
            ground_truth.check_size(row.path, detections.masks.size, image_id)
            entries += [{**entry, "image_id": image_id} for entry in coco_entries(row, category_ids)]
    return entries


def _read(part: Path) -> Iterator[tuple[ImageRow, InstanceDetections]]:
    """Read a part; one with an image that could not be read is removed, so that the next run reads the image again.

    Raises:
        ImageError: there is such an image.
    """
    for row in read_part(str(part)):
        if row.detections is None:
            part.unlink()
            raise ImageError(row.reason or f"{row.path} cannot be read")
        yield row, row.detections
