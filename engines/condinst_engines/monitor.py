"""Progress of a build, reported by the builder, and how Ctrl-C stops it."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from condinst_deploy.support.signals import Interruption

OnProgress = Callable[[float, str], None]
"""Takes the share that is done, 0 to 1, and the name of the innermost phase."""


@dataclass
class _Phase:
    name: str
    parent: str | None
    steps: int
    done: int = 0


class Phases:
    """Phases inside phases, as a builder reports them, and the share of the whole that is done."""

    def __init__(self, on_progress: OnProgress) -> None:
        self._on_progress = on_progress
        self._phases: dict[str, _Phase] = {}
        self._furthest = 0.0
        self._lock = threading.Lock()  # builders report from several threads

    def start(self, name: str, parent: str | None, steps: int) -> None:
        """A phase of so many steps begins inside another."""
        with self._lock:
            self._phases[name] = _Phase(name, parent, max(steps, 1))
        self._report()

    def step(self, name: str, step: int) -> None:
        """Step `step`, counted from 0, of a phase is done."""
        with self._lock:
            if name in self._phases:
                self._phases[name].done = step + 1
        self._report()

    def finish(self, name: str) -> None:
        """A phase ends."""
        with self._lock:
            self._phases.pop(name, None)
        self._report()

    def _report(self) -> None:
        with self._lock:
            phases = list(self._phases.values())
            roots = [phase for phase in phases if phase.parent not in self._phases]
            share = self._share(roots[0]) if roots else self._furthest
            # between a phase's end and its parent's next step the sum is lower for a moment
            self._furthest = max(self._furthest, share)
            innermost = phases[-1].name if phases else ""
        self._on_progress(self._furthest, innermost)

    def _share(self, phase: _Phase) -> float:
        inner = max((self._share(p) for p in self._phases.values() if p.parent == phase.name), default=0.0)
        return min((phase.done + inner) / phase.steps, 1.0)


def progress_monitor(trt: Any, phases: Phases, interruption: Interruption) -> Any:
    """The object that a builder reports to; after Ctrl-C it asks the builder to stop at its next step.

    Ctrl-C is noticed when the builder calls back in the main thread, as TensorRT for RTX does. A builder that reports
    only from other threads is stopped after the build.
    """

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            phases.start(phase_name, parent_phase, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            phases.step(phase_name, step)
            return not interruption.wanted

        def phase_finish(self, phase_name: str) -> None:
            phases.finish(phase_name)

    return Monitor()
