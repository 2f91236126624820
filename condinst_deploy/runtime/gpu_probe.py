"""The health check of a GPU: some bytes go there and come back."""

from condinst_deploy.errors import BackendError

PROBE = b"condinst"


def check_returned(found: bytes) -> None:
    """Check that `PROBE` came back.

    Raises:
        BackendError: other bytes came.
    """
    if found != PROBE:
        raise BackendError("the GPU does not give back the bytes that it was given; check it with nvidia-smi")
