"""The content of an image file in memory."""

from dataclasses import dataclass
from pathlib import Path

from condinst_deploy.errors import ConfigError


@dataclass(frozen=True)
class EncodedImage:
    """The content of an image file that is in memory, for example from an upload or an object store."""

    name: str  # what messages call it
    content: bytes

    def __post_init__(self) -> None:
        """Check the types: a text as content would be taken for a damaged image.

        Raises:
            ConfigError: a value has a wrong type.
        """
        if not isinstance(self.name, str):
            raise ConfigError(f"EncodedImage's name is a {type(self.name).__name__}; expected text for messages")
        if not isinstance(self.content, bytes | bytearray | memoryview):
            raise ConfigError(
                f"EncodedImage's content is a {type(self.content).__name__}; expected the bytes of an image file"
                + (" (a path is given to Predictor as it is)" if isinstance(self.content, str | Path) else "")
            )
