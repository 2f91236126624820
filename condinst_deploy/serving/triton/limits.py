"""Limits of what one request may ask of a server."""

from dataclasses import asdict, dataclass, fields
from typing import Any

from condinst_deploy.errors import ConfigError
from condinst_deploy.shown_text import shown_value

LARGEST = 2**40


@dataclass(frozen=True)
class Limits:
    """Limits of a request; one beyond them is refused with INVALID_ARGUMENT."""

    image_bytes: int = 32 * 2**20  # of the encoded image
    image_pixels: int = 100_000_000  # width times height that the file's header declares
    dense_bytes: int = 2**30  # of dense masks, where a request asks for them
    queued_requests: int = 256  # that wait for a model; more are refused at once

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ConfigError: a limit is not a whole number from 1 to 2^40.
        """
        for field in fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= LARGEST:
                raise ConfigError(f"{field.name} is {shown_value(value)}; expected a whole number from 1 to 2^40")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)
