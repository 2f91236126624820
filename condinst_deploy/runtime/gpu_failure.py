"""A GPU that failed for good: the error that every backend raises then, and how PyTorch's errors say so."""

from collections.abc import Iterator
from contextlib import contextmanager

from condinst_deploy.errors import BackendError

STICKY_TEXTS = (
    "an illegal instruction was encountered",
    "an illegal memory access was encountered",
    "device-side assert triggered",
    "hardware stack error",
    "invalid program counter",
    "misaligned address",
    "operation not supported on global/shared address space",
    "the launch timed out and was terminated",
    "uncorrectable ECC error encountered",
    "uncorrectable NVLink error detected during the execution",
    "unspecified launch failure",
)
"""CUDA's texts of errors after which every call of the process fails (`cuda/driver.py` has their names)."""


def check_usable(failure: str | None) -> None:
    """Check that a GPU did not fail for good.

    Args:
        failure: the error that made it useless for this process; None: there was none.

    Raises:
        BackendError: there was one.
    """
    if failure is not None:
        raise BackendError(f"the GPU failed earlier in this process ({failure}); start a new process")


class TorchGuard:
    """Work of PyTorch on a GPU, until an error that stays; after it, all work is refused. Threads may share it.

    Attributes:
        failure: the error's text; None: there was none.
    """

    def __init__(self) -> None:
        self.failure: str | None = None

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """Run a block of work.

        Raises:
            BackendError: the GPU failed for good, now or earlier, or has too little memory.
        """
        check_usable(self.failure)
        try:
            yield
        except RuntimeError as e:
            if type(e).__name__ == "OutOfMemoryError":  # this module does not import PyTorch
                reason = str(e).partition(". ")[0]
                raise BackendError(
                    f"there is too little memory on the GPU ({reason}); use a smaller batch_size or smaller images"
                ) from e
            text = next((text for text in STICKY_TEXTS if text in str(e)), None)
            if text is None:
                raise
            self.failure = text
            raise BackendError(
                f"the GPU fails with a CUDA error ({text}); it cannot be used by this process any more: start a new"
                " process"
            ) from e
