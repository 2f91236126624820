"""What identifies the data of a run, so that a resumed run notices data that changed under the same path."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from condinst_deploy.data.coco import CocoDataset
from condinst_deploy.errors import ConfigError, DataError
from condinst_deploy.shown_text import counted, shown
from condinst_deploy.support.atomic_write import atomic_path
from condinst_deploy.support.digests import sha256_of
from condinst_deploy.support.json_text import json_text
from condinst_deploy.support.validation import typed

DATA_FILE = "data.json"
"""The record's file in the folder of a run."""

DIGITS = 12
"""Digits of a SHA-256 that a message shows."""

NO_RECORD = "it has no record of its data, as those of earlier releases, so that the data is not compared"


@dataclass(frozen=True)
class SetRecord:
    """One data set.

    Attributes:
        annotations: the annotation file, for messages; the same data may lie elsewhere.
        sha256: of the annotation file, in hexadecimal.
        images: that the file lists.
        objects: that can be learnt; crowds are not among them.
    """

    annotations: str = field(compare=False)
    sha256: str
    images: int
    objects: int

    def __str__(self) -> str:
        digest = f"SHA-256 {shown(self.sha256[:DIGITS])}..."
        return f"{counted(self.images, 'image')}, {counted(self.objects, 'object')}, {digest}"


@dataclass(frozen=True)
class DataRecord:
    """The data sets of a run."""

    train: SetRecord
    val: SetRecord

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for a checkpoint and for JSON."""
        return asdict(self)


def data_record(train: CocoDataset, val: CocoDataset) -> DataRecord:
    """The record of a training and a validation set that were read.

    Raises:
        DataError: an annotation file cannot be read any more.
    """
    return DataRecord(_record_of(train), _record_of(val))


def record_from_dict(values: object) -> DataRecord | None:
    """The record of a checkpoint; None: it has none.

    Raises:
        ConfigError: it is malformed.
    """
    return None if values is None else typed(values, DataRecord, "data")


def write_record(record: DataRecord, path: Path) -> None:
    """Write a record as JSON.

    Raises:
        OutputError: the file cannot be written.
    """
    with atomic_path(path) as temporary:
        temporary.write_text(json_text(record.to_dict(), "the record of the data", indent=2) + "\n", encoding="utf-8")


def compared(then: DataRecord | None, now: DataRecord, *, evaluated: bool) -> str:
    """Compare the data of a run with the data that it is resumed with.

    Another validation set has one meaning until the first evaluation; afterwards its AP would decide between models
    that were measured on different images.

    Args:
        then: the checkpoint's record; None: it has none.
        now: the record of the data that is there now.
        evaluated: whether the run was evaluated before.

    Returns:
        What a user should know; "" if the data is the same.

    Raises:
        ConfigError: the data is not the same.
    """
    if then is None:
        return NO_RECORD
    train, val = (
        [] if before == after else [f"{name} set {shown(after.annotations, 200)}: {before} then; {after} now"]
        for name, before, after in (("training", then.train, now.train), ("validation", then.val, now.val))
    )
    if train or (val and evaluated):
        raise ConfigError(
            f"the data changed since the run stopped ({'; '.join(train + val)}); resume with the data of then, or start"
            " a new run in another folder, with this one's weights by --weights"
        )
    if val:
        return f"the data changed since the run stopped ({val[0]}); nothing was evaluated on the old validation set"
    return ""


def _record_of(data: CocoDataset) -> SetRecord:
    try:
        digest = sha256_of(data.annotations)
    except OSError as e:
        raise DataError(f"{data.annotations} cannot be read any more ({e.strerror or e})") from e
    return SetRecord(str(data.annotations), digest, len(data.all_records), int(data.all_records.objects.starts[-1]))
