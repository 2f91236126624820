"""History of a run: one line of JSON for each record, TensorBoard scalars, and a plot of the curves."""

import io
import json
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TextIO

from condinst_deploy.data.annotation_checks import is_finite
from condinst_deploy.errors import ConfigError, OutputError
from condinst_deploy.support.atomic_write import atomic_path
from condinst_deploy.support.extras import install_command
from condinst_deploy.support.held_folders import check_held
from condinst_deploy.support.input_files import is_there, read_file
from condinst_deploy.support.json_text import json_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HISTORY_FILE = "history.jsonl"
NO_SCORE = -1.0
"""COCO's average precision where nothing is annotated."""

LOSSES = ("cls", "box", "centerness", "mask", "semantic", "pairwise")

Record = dict[str, float]


def is_evaluation(record: Record) -> bool:
    """Return whether a record has average precision."""
    return "bbox/ap" in record


def score_of(record: Record) -> float:
    """Return the metric of an evaluation that selects the best model: mask AP, or box AP if there are no masks."""
    return record.get("segm/ap", record["bbox/ap"])


def best_of(records: Iterable[Record]) -> Record | None:
    """The evaluation whose model is `best.pth`: the first one with the highest score. None: none has a score."""
    scored = [record for record in records if is_evaluation(record) and score_of(record) > NO_SCORE]
    return max(scored, key=score_of, default=None)


class Evaluations(NamedTuple):
    """Metrics of a run that ended: of its last evaluation, and of the one whose model is `best.pth` (`best_of`)."""

    last: Record
    best: Record | None


def average_precision_text(record: Record) -> str:
    """Return the average precision of an evaluation in words."""
    box = f"box AP {record['bbox/ap']:.4f}"
    if "segm/ap" not in record:
        return f"{box} (AP50 {record['bbox/ap50']:.4f})"
    return f"mask AP {record['segm/ap']:.4f} (AP50 {record['segm/ap50']:.4f}), {box}"


class _NoScalars:
    """Replacement for TensorBoard's writer that writes nothing."""

    def add_scalar(self, name: str, value: float, step: int) -> None:
        """Drop a number."""

    def close(self) -> None:
        """Do nothing."""


class History(AbstractContextManager["History"]):
    """Records by iteration; a resumed run first forgets what came after its checkpoint."""

    def __init__(self, folder: Path, iteration: int, tensorboard: bool = True, written: bool = True) -> None:
        """Open the history of a run.

        Args:
            folder: of the run.
            iteration: of the checkpoint that the run goes on from.
            tensorboard: write scalars for TensorBoard, too.
            written: False in processes that keep records and write nothing.

        Raises:
            ConfigError: a library is missing.
            OutputError: the folder cannot be written, or an earlier history cannot be read.
        """
        self._path = folder / HISTORY_FILE
        self._stream: TextIO = io.StringIO()
        self._scalars: Any = _NoScalars()
        self.records = [record for record in read_history(self._path) if record["iteration"] <= iteration]
        if not written:
            return
        writer = _library(tensorboard)
        with atomic_path(self._path) as temporary:
            temporary.write_text("".join(_line(record) for record in self.records), encoding="utf-8")
        with self._writing():
            self._stream = self._path.open("a", encoding="utf-8")
            if writer is not None:
                self._scalars = writer(str(folder / "tensorboard"), purge_step=iteration + 1)

    def add(self, record: Record) -> None:
        """Append metrics of one iteration (`iteration` among them).

        Raises:
            OutputError: the disk is full, or the folder is gone.
        """
        self.records.append(record)
        with self._writing():
            check_held(self._path)
            self._stream.write(_line(record))
            self._stream.flush()
            for name, value in record.items():
                if name != "iteration":
                    self._scalars.add_scalar(name, value, int(record["iteration"]))

    def close(self) -> None:
        """Write what is left.

        Raises:
            OutputError: the disk is full, or the folder is gone.
        """
        with self._writing():
            try:
                self._stream.close()
            finally:
                self._scalars.close()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as e:
            raise OutputError(
                f"the history in {self._path.parent} cannot be written ({e.strerror or e}); choose another place"
            ) from e

    def __exit__(self, *_: object) -> None:
        self.close()


def _library(tensorboard: bool) -> Any:
    """TensorBoard's writer, or None; libraries that are needed at the end are better missed now.

    Raises:
        ConfigError: one is missing.
    """
    try:
        import matplotlib  # noqa: F401

        if not tensorboard:
            return None
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as e:
        raise ConfigError(
            "training needs matplotlib, and tensorboard unless the recipe has tensorboard = false:"
            f" {install_command('train')}"
        ) from e
    return SummaryWriter


def _line(record: Record) -> str:
    return json_text(record, f"the record of iteration {record['iteration']:.0f}") + "\n"


def read_history(path: Path) -> list[Record]:
    """Records of a run, none without a file; a line that was cut off is left out.

    Raises:
        OutputError: the file cannot be read, or is none.
    """
    records: list[Record] = []
    try:
        text = read_file(path).decode("utf-8", errors="replace") if is_there(path) else ""
    except OSError as e:
        raise OutputError(
            f"the history {path} cannot be read ({e.strerror or e}); expected the file that training writes: mend it,"
            " or move it away to go on without the earlier metrics"
        ) from e
    for line in text.splitlines():
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(record, dict) and all(is_finite(value) for value in record.values()) and "iteration" in record:
            records.append(record)
    return records


def draw_curves(records: list[Record], path: Path) -> None:
    """Write an image of the losses and of the average precision over the iterations.

    Raises:
        OutputError: it cannot be written.
    """
    figure = curves_figure(records)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)


def curves_figure(records: list[Record]) -> "Figure":
    """The plot of `draw_curves`: losses at the left, average precision at the right."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4), layout="constrained")
    losses, precision = figure.subplots(1, 2)
    steps = [record for record in records if "loss/total" in record]
    for name in LOSSES:
        own = [record for record in steps if f"loss/{name}" in record]
        if own:
            values = [r[f"loss/{name}"] for r in own]
            alone = "o" if len(own) == 1 else None  # one point has no line
            losses.plot([r["iteration"] for r in own], values, label=name, linewidth=1, marker=alone)
    losses.set(title="losses", xlabel="iteration", ylim=(0, None))
    if steps:
        losses.legend()
    for kind, label in (("bbox", "box AP"), ("segm", "mask AP")):
        evaluations = [record for record in records if f"{kind}/ap" in record]
        points = [record[f"{kind}/ap"] for record in evaluations]
        if points or kind == "bbox":
            precision.plot([record["iteration"] for record in evaluations], points, marker="o", label=label)
    precision.set(title="validation", xlabel="iteration", ylim=(0, 1))
    precision.legend()
    return figure
