"""What the processes of an evaluation tell each other: that all go on, that one failed, that one is to stop."""

from dataclasses import dataclass
from signal import SIGTERM

from condinst_deploy.support.signals import Interruption, Stopped, received
from condinst_deploy.training.ranks import Ranks

IMAGES_APART = 8
"""Images of its own that a process detects in, in an evaluation, before it asks whether the others still do."""


class OthersStopped(Exception):
    """Another process failed in its share of an evaluation."""


@dataclass
class SharedProgress:
    """What the processes of an evaluation tell each other while each detects in its images."""

    ranks: Ranks
    images: int  # that every process has at least
    interruption: Interruption
    done: int = 0

    def one_more(self) -> None:
        """Count an image.

        Raises:
            DistributedError: another process is lost.
            KeyboardInterrupt: a signal came, here or in another process.
            OthersStopped: another process failed.
        """
        self.done += 1
        if self.done % IMAGES_APART == 0 and self.done <= self.images and self._any(failed=False):
            raise OthersStopped

    def failed(self) -> None:
        """Let the others know at their next question; after the last one they wait for this process anyway."""
        if (self.done // IMAGES_APART + 1) * IMAGES_APART <= self.images:
            self._any(failed=True)

    def _any(self, failed: bool) -> int:
        somewhere, stop = self.ranks.any((int(failed), int(self.interruption.wanted)))
        if stop:
            raise Stopped(received() or SIGTERM)
        return somewhere
