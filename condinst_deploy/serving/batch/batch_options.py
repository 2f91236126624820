"""Options of a batch run."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from condinst_deploy.contract.model_settings import DETECTIONS, SHARE
from condinst_deploy.contract.precision import Precision
from condinst_deploy.errors import ConfigError
from condinst_deploy.runtime.canvases import canvases_as_json
from condinst_deploy.runtime.devices import check_device
from condinst_deploy.runtime.predictor_options import MOST_IN_BATCH
from condinst_deploy.serving.batch.shards import check_shard_size
from condinst_deploy.support.option_types import check_types
from condinst_deploy.support.validation import Limits, check_given

if TYPE_CHECKING:
    from condinst_deploy.runtime.predictor import Predictor

Format = Literal["parquet", "coco"]

SHARD_SIZE = 512
"""Images of a shard; docs/scaling.md derives it."""


@dataclass(frozen=True)
class DetectionOptions:
    """Options of detection; see `Predictor` for their meaning."""

    device: str = "auto"
    score_threshold: float | None = None
    classes: tuple[str, ...] | None = None
    max_detections: int | None = None
    batch_size: int | None = None
    pixels: Literal["exact", "fast", "cuda"] = "exact"
    precision: Precision | None = None
    canvases: Sequence[tuple[int, int]] | None = None

    def __post_init__(self) -> None:
        """Check what does not depend on the model: a mistake must not name the run of an output folder.

        Raises:
            ConfigError: a value has another type, or cannot be used with any model.
        """
        check_types(self)
        check_device(self.device)
        in_batch = Limits(1, MOST_IN_BATCH, whole=True)
        check_given(self, score_threshold=SHARE, max_detections=DETECTIONS, batch_size=in_batch)
        if self.classes is not None and not self.classes:
            raise ConfigError("classes names no class; expected at least one, or None for all")

    def load(self, model: Path) -> "Predictor":
        """Load a model with these options.

        Raises:
            CondInstError: the model cannot be used, or an option does not fit it.
        """
        from condinst_deploy.runtime.predictor import Predictor
        from condinst_deploy.runtime.preprocessing.types import InputOptions

        return Predictor(
            model,
            device=self.device,
            score_threshold=self.score_threshold,
            classes=self.classes,
            max_detections=self.max_detections,
            batch_size=self.batch_size,
            inputs=InputOptions(self.pixels, keep_images=False),
            precision=self.precision,
            canvases=self.canvases,
        )


@dataclass(frozen=True)
class BatchOptions:
    """A batch run: input, model, output."""

    input: str  # folder, pattern, list file, Parquet file, or a URL of one of them
    model: Path
    out: str  # folder or URL
    detection: DetectionOptions = field(default_factory=DetectionOptions)
    format: Format = "parquet"
    shard_size: int = SHARD_SIZE
    column: str | None = None  # of Parquet inputs; None: the first that is known

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ConfigError: a value has another type, or is not one of those that there are.
        """
        check_types(self)
        object.__setattr__(self, "model", Path(self.model))  # a text is a path, too
        check_shard_size(self.shard_size)
        if self.format not in get_args(Format):
            raise ConfigError(f"the format is {self.format!r}; expected one of {', '.join(get_args(Format))}")

    def recorded(self) -> dict[str, Any]:
        """The options that the rows depend on, as JSON values."""
        options = {name: _plain(value) for name, value in asdict(self.detection).items()}
        classes: Sequence[str] | None = self.detection.classes
        return {
            **options,
            "classes": None if classes is None else list(classes),
            "canvases": canvases_as_json(self.detection.canvases),
            "format": self.format,
            "shard_size": _plain(self.shard_size),
            "column": self.column,
        }


def _plain(value: Any) -> Any:
    """NumPy's numbers are taken as options, and JSON has none of them."""
    return value.item() if isinstance(value, np.generic) else value
