"""One side of the comparison: a separate process, which answers one line an image.

Both environments import this module, so it needs nothing but Python.
"""

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TextIO

READ, NETWORK, MASKS, ENCODE = "read and resize", "network", "masks", "encode"
STAGES = (READ, NETWORK, MASKS, ENCODE)
"""Of one image, in order; what is in none of them is `the rest`."""

MIB = 1024
"""kB, as the kernel counts memory."""


class Found(NamedTuple):
    """Results of a side for one image; encoding the masks is part of the measured time."""

    boxes: Any  # (n, 4) xyxy, original pixels
    scores: Any  # (n,)
    labels: Any  # (n,) from 0
    rles: Sequence[dict[str, Any]]  # n of pycocotools' RLEs


class Stages:
    """Milliseconds of each stage. What runs inside another watched stage is counted there only."""

    def __init__(self) -> None:
        self._spent: dict[str, float] = {}
        self._local = threading.local()

    @contextmanager
    def clock(self, stage: str) -> Iterator[None]:
        """Count the block's time as `stage`."""
        outer = getattr(self._local, "inner", 0.0)
        self._local.inner = 0.0
        started = time.perf_counter()
        try:
            yield
        finally:
            whole = 1000 * (time.perf_counter() - started)
            self._spent[stage] = self._spent.get(stage, 0.0) + whole - self._local.inner
            self._local.inner = outer + whole

    def watch(self, owner: Any, name: str, stage: str) -> None:
        """Count every call of the method `name` of one object as `stage`."""
        method = getattr(owner, name)

        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.clock(stage):
                return method(*args, **kwargs)

        setattr(owner, name, timed)

    def taken(self) -> dict[str, float]:
        """Return the counts since the last call."""
        spent, self._spent = self._spent, {}
        return {stage: round(spent.get(stage, 0.0), 2) for stage in STAGES}


class Side(Protocol):
    """One implementation, loaded."""

    def __call__(self, path: str) -> Found:
        """Image file -> encoded detections."""


def serve(load: Callable[[Stages], Side]) -> None:
    """Load a side, then answer every path on standard input with one line of JSON, until the input ends."""
    answers = _own_output()
    stages = Stages()
    side = load(stages)
    loaded = memory_mib("VmRSS")
    with suppress(OSError):  # forget the peak of loading, where the kernel lets us
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    _answer(answers, {"loaded_mib": loaded})
    for line in sys.stdin:
        started = time.perf_counter()
        found = side(line.rstrip("\n"))
        total = 1000 * (time.perf_counter() - started)
        timing = {"total_ms": round(total, 2), "stages_ms": stages.taken(), "peak_mib": memory_mib("VmHWM")}
        _answer(answers, timing | {"detections": entries(found)})


def entries(found: Found) -> list[dict[str, Any]]:
    """Entries as in a COCO results file; the categories are labels."""
    rows = zip(found.boxes.tolist(), found.scores.tolist(), found.labels.tolist(), found.rles, strict=True)
    return [
        {
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "score": score,
            "category_id": label,
            "segmentation": {"size": list(map(int, rle["size"])), "counts": rle["counts"].decode("ascii")},
        }
        for (x1, y1, x2, y2), score, label, rle in rows
    ]


def memory_mib(field: str) -> int | None:
    """A line of /proc/self/status, `VmRSS` (now) or `VmHWM` (the most); None if there is no such file."""
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith(f"{field}:"):
                return int(line.split()[1]) // MIB
    return None


def _own_output() -> TextIO:
    """Standard output for the answers alone: what libraries print goes to standard error."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return answers


def _answer(answers: TextIO, content: dict[str, Any]) -> None:
    answers.write(json.dumps(content) + "\n")
    answers.flush()
