"""Run detection on a Ray Dataset.

A dataset's own scheduling applies: there are no shards, parts or manifests, and a run that was stopped starts again.
`condinst-batch` has these.
"""

from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from condinst_deploy.contract.artifacts import check_model_file
from condinst_deploy.errors import ConfigError
from condinst_deploy.serving.batch.batch_options import DetectionOptions
from condinst_deploy.serving.batch.output_rows import Classes, ImageRow, arrow_schema, arrow_table
from condinst_deploy.serving.batch.parquet_inputs import ImageSource, image_column, pyarrow, sources_of_table
from condinst_deploy.serving.batch.shard_worker import rows_of
from condinst_deploy.serving.ray_session import RayOptions, check_ray
from condinst_deploy.shown_text import shown_value
from condinst_deploy.support.option_types import checked_arguments

ROWS = 64
"""Rows that a worker is given at a time."""


@checked_arguments
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
        A dataset with a row for each image: the columns of `condinst_deploy.serving.batch.output_rows` except
        `position`, and the columns of `dataset` except the images'. Images that cannot be read have `error`
        and `reason`.

    Raises:
        BackendError: Ray is not installed.
        ArtifactError, CheckpointError: there is no such model.
        ConfigError: an argument has another type; the dataset has no column of images, or one that the result would
            have twice; an address was given: the dataset knows its cluster. Where Ray does not know the columns yet,
            its workers find out about them, and the error is in Ray's.
    """
    check_ray()
    from ray.data import ActorPoolStrategy, Dataset

    if not isinstance(dataset, Dataset):
        raise ConfigError(f"dataset is {shown_value(dataset)}; expected a ray.data.Dataset")
    options = ray_options or RayOptions()
    if options.address is not None:
        raise ConfigError(f"address is {options.address}; a dataset runs where ray.init() connected to")
    check_model_file(Path(model))
    _check_columns(dataset, column)
    return dataset.map_batches(
        DatasetDetector,
        fn_constructor_args=(Path(model).absolute(), column, detection or DetectionOptions()),
        batch_format="pyarrow",
        batch_size=ROWS,
        compute=ActorPoolStrategy(size=options.workers or 1),
        num_gpus=options.gpus_per_worker or 0,
        num_cpus=options.cpus_per_worker,
    )


def _check_columns(dataset: Any, column: str | None) -> None:
    """Check the columns of a dataset, if they are known without work."""
    known = dataset.schema(fetch_if_missing=False)
    schema = None if known is None else known.base_schema
    if isinstance(schema, pyarrow().Schema) and schema.names:  # an empty dataset may have no columns
        _kept_columns(schema.names, image_column(schema, column, "the dataset"))


def _kept_columns(names: Sequence[str], images: str) -> list[str]:
    """The columns that the result has, too.

    Raises:
        ConfigError: the result has another column of such a name.
    """
    own = {name for name in arrow_schema(Classes((), ())).names if name != "position"}
    kept = [name for name in names if name not in (images, "path")]
    for name in kept:
        if name in own:
            raise ConfigError(f"the dataset has a column {name!r}, and so have the results; rename it")
    return kept


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
        images, sources = sources_of_table(table, self._column, "the dataset")
        kept = _kept_columns(table.column_names, images)  # before the work
        found = arrow_table(list(self._rows(iter(sources))), self._classes).drop_columns(["position"])
        for name in kept:
            found = found.append_column(name, table.column(name))
        return found

    def _rows(self, sources: Iterator[ImageSource]) -> Iterator[ImageRow]:
        with closing(rows_of(self._predictor, sources, 0)) as rows:
            yield from rows
