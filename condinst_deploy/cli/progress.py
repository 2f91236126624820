"""Progress of long commands: bars on a terminal, and elsewhere a line from time to time with rate and time left."""

import time
from collections.abc import Callable

from condinst_deploy.cli.command import terminal

LINE_SECONDS = 30.0
"""Between two lines where there is no terminal to draw a bar on."""


class ProgressLines:
    """Lines of one or several tasks, at most one in `LINE_SECONDS`; none on a terminal, which has bars."""

    def __init__(
        self, seconds: float = LINE_SECONDS, clock: Callable[[], float] = time.monotonic, show: bool | None = None
    ) -> None:
        self._seconds, self._clock = seconds, clock
        self._show = not terminal.is_terminal if show is None else show
        self._shown_at = clock()
        self._begun: dict[str, tuple[float, int]] = {}  # time, and what was done before
        self._share = 0.0

    def update(self, what: str, done: int, total: int) -> str:
        """Take how much of a task is done and return its line, printed or not.

        What the first call of a task reports was done before the task began.
        """
        now = self._clock()
        begun, before = self._begun.setdefault(what, (now, done))
        line = progress_line(what, done, total, done - before, now - begun)
        if self._show and now - self._shown_at >= self._seconds:
            self._print(line)
        return line

    def share(self, what: str, share: float) -> None:
        """Take which share of a task, 0 to 1, is done; a smaller one than before begins another task."""
        now = self._clock()
        if share < self._share:
            self._begun.pop("", None)  # another task
        self._share = share
        begun, _ = self._begun.setdefault("", (now, 0))
        if self._show and now - self._shown_at >= self._seconds:
            left = f", {duration_text((now - begun) * (1 - share) / share)} left" if share > 0 else ""
            self._print(f"{what}: {share:.0%}{left}")

    def stage(self, name: str) -> None:
        """Take what begins now and print it at once; `update` of the same name says how far it is."""
        if self._show:
            self._print(name)

    def _print(self, line: str) -> None:
        terminal.print(line)
        self._shown_at = self._clock()


def progress_line(what: str, done: int, total: int, counted: int, seconds: float) -> str:
    """Return a line such as `images: 120 of 3000, 8.3/s, 5 min 47 s left`.

    Args:
        what: the task.
        done: images, or whatever is counted, that are finished.
        total: all of them.
        counted: those that were finished in `seconds`; earlier runs may have done others.
        seconds: since the first of them.
    """
    line = f"{what}: {done} of {total}"
    if counted <= 0 or seconds <= 0:
        return line
    rate = counted / seconds
    shown = f"{rate:.1f}/s" if rate >= 1 else f"{1 / rate:.1f} s each"
    return f"{line}, {shown}, {duration_text((total - done) / rate)} left"


def duration_text(seconds: float) -> str:
    """Return a duration in two units at most: `47 s`, `5 min 47 s`, `2 h 10 min`."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
