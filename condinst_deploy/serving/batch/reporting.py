"""Progress reports of a run: events for a log, and totals."""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from os import SEEK_END
from pathlib import Path
from typing import Any, Literal

from condinst_deploy.serving.batch.shard_worker import ShardReport
from condinst_deploy.support.json_text import json_text

EVENTS = "events.jsonl"


@dataclass(frozen=True)
class Event:
    """Something that happened to a shard or to a worker."""

    kind: Literal["waiting", "ready", "start", "done", "lost", "failed"]
    worker: str  # process and host; "new" before it is ready
    shard: int | None = None
    reason: str | None = None
    report: ShardReport | None = None


OnEvent = Callable[[Event], None]


class EventLog(AbstractContextManager["EventLog"]):
    """Appends events to a file, a line of JSON each: which worker did which shard, in what time, and what was lost."""

    def __init__(self, folder: Path) -> None:
        self._stream = (folder / EVENTS).open("a+b", buffering=0)
        if self._stream.seek(0, SEEK_END):
            self._stream.seek(-1, SEEK_END)
            if self._stream.read(1) != b"\n":  # a kill in the middle of a line
                self._stream.write(b"\n")

    def __call__(self, event: Event) -> None:
        """Append an event; it survives a kill of this process, and may be lost in a power cut."""
        values: dict[str, Any] = {"time": round(time.time(), 3), **asdict(event)}
        present = {name: value for name, value in values.items() if value is not None}
        self._stream.write(f"{json_text(present, 'an event')}\n".encode())

    def close(self) -> None:
        """Close the file."""
        self._stream.close()

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass
class Totals:
    """Totals of a run."""

    images: int = 0
    failed: int = 0
    detections: int = 0
    shards: int = 0
    redone: int = 0  # shards whose worker died
    failed_shards: list[str] = field(default_factory=list)  # why, for each shard without a part

    def __call__(self, event: Event) -> None:
        """Count an event."""
        if event.report is not None:
            self.images += event.report.images
            self.failed += event.report.failed
            self.detections += event.report.detections
            self.shards += 1
        self.redone += event.kind == "lost" and event.shard is not None
        if event.kind == "failed":
            self.failed_shards.append(f"shard {event.shard}: {event.reason}")
