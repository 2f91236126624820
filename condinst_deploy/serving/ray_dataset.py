"""Detections of a Ray Dataset, for those who have one already.

A dataset's own scheduling applies: there are no shards, parts or manifests, and a run that was stopped starts again.
`condinst-batch` has these.
"""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from condinst_deploy.errors import ConfigError
from condinst_deploy.serving.batch.options import DetectionOptions
from condinst_deploy.serving.batch.output_rows import Classes, ImageRow, arrow_table
from condinst_deploy.serving.batch.parquet_inputs import ImageSource, sources_of_table
from condinst_deploy.serving.batch.shard_worker import rows_of
from condinst_deploy.serving.ray_session import RayOptions, check_ray

ROWS = 64
"""Rows that a worker is given at a time."""


def detect_dataset(
    dataset: Any,
    model: str | Path,
    *,
    column: str | None = None,
    detection: DetectionOptions | None = None,
    ray_options: RayOptions | None = None,
) -> Any:
    """Run a model on the images of a Ray Dataset, lazily.

    Args:
        dataset: a `ray.data.Dataset` with a column of file contents (binary), of paths or URLs (string), or of structs
            with the field `bytes`.
        model: a model file, at the same path on every machine.
        column: the column of images; None: the first that is known (`image`, `bytes`, ..., `path`, ...).
        detection: see `DetectionOptions`; None: the defaults.
        ray_options: `workers` (None: 1), `gpus_per_worker` (None: 0) and `cpus_per_worker`; there is no `address`.

    Returns:
        A dataset with a row for each image: the columns of `condinst_deploy.serving.batch.output_rows` but for
        `position`, and the columns of `dataset` but for that of the images. Images that cannot be read have `error`
        and `reason`.

    Raises:
        BackendError: Ray is not installed.
        ConfigError: an address was given: the dataset knows its cluster.
    """
    check_ray()
    from ray.data import ActorPoolStrategy

    options = ray_options or RayOptions()
    if options.address is not None:
        raise ConfigError(f"address is {options.address}; a dataset runs where ray.init() connected to")
    return dataset.map_batches(
        DatasetDetector,
        fn_constructor_args=(Path(model).absolute(), column, detection or DetectionOptions()),
        batch_format="pyarrow",
        batch_size=ROWS,
        compute=ActorPoolStrategy(size=options.workers or 1),
        num_gpus=options.gpus_per_worker or 0,
        num_cpus=options.cpus_per_worker,
    )


class DatasetDetector:
    """Processing of a table by a worker of the dataset."""

    def __init__(self, model: Path, column: str | None, detection: DetectionOptions) -> None:
        self._predictor, self._column = detection.load(model), column
        manifest = self._predictor.manifest
        self._classes = Classes(tuple(manifest.class_names), tuple(manifest.category_ids))

    def __call__(self, table: Any) -> Any:
        """Detect in the images of a table of Arrow.

        Raises:
            ConfigError: the table has no column of images, or has one that the result would have twice.
        """
        image_column, sources = sources_of_table(table, self._column, "the dataset")
        found = arrow_table(list(self._rows(iter(sources))), self._classes).drop_columns(["position"])
        kept = [name for name in table.column_names if name != image_column]
        for name in kept:
            if name == "path" or name not in found.column_names:
                continue
            raise ConfigError(f"the dataset has a column {name!r}, and so have the results; rename it")
        for name in kept:
            if name != "path":
                found = found.append_column(name, table.column(name))
        return found

    def _rows(self, sources: Iterator[ImageSource]) -> Iterator[ImageRow]:
        with closing(rows_of(self._predictor, sources, 0)) as rows:
            yield from rows
