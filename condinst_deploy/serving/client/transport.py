"""Interface of the client's transports, and the errors that they share."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol
from urllib.parse import SplitResult, urlsplit

from condinst_deploy.errors import BackendError, ConfigError
from condinst_deploy.serving.client.wire import Reply

LONGEST_ADDRESS = 2000
"""Characters of an address."""


class ServerUnavailable(BackendError):
    """The server did not answer, or said that it is busy or not ready; asking again is safe."""


class Transport(Protocol):
    """One server. Threads may use it at once."""

    def infer(self, model: str, content: bytes, parameters: Mapping[str, str | int], outputs: Sequence[str]) -> Reply:
        """Ask a model about one encoded image.

        Raises:
            ConfigError: the server refuses the request, with the server's reason.
            ServerUnavailable: the server does not answer, is busy, or the model is not ready.
            BackendError: the model failed.
        """

    def config(self, model: str) -> dict[str, Any]:
        """The configuration of a model, as the server has it.

        Raises:
            ConfigError: the server has no such model.
            ServerUnavailable: as `infer`.
        """

    def ready(self, model: str | None = None) -> bool:
        """Return whether the server or, if named, a model is ready. False if nothing answers."""

    def reload(self, model: str) -> None:
        """Unload and load a model.

        Raises:
            BackendError: the server does not allow it, or the model does not load.
        """

    def close(self) -> None:
        """Close connections."""


def address_of(url: str, *schemes: str) -> SplitResult:
    """The parts of a server's address, `scheme://host:port` and perhaps a path in front of the server's own.

    Raises:
        ConfigError: it is not one of these schemes, or not an address at all.
    """
    expected = " or ".join(f"{scheme}://host:port" for scheme in schemes)
    if len(url) > LONGEST_ADDRESS or not url.isprintable() or " " in url:
        raise ConfigError(f"{url[:100]!r} is not an address; expected {expected}, without spaces and controls")
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
        (host or "").encode("idna")
    except ValueError as e:  # the port is no number, a part of the host's name is too long
        raise ConfigError(f"{url[:100]!r} is not an address ({e}); expected {expected}") from e
    if "@" in parts.netloc:  # it is not quoted: it has a password
        raise ConfigError(f"an address has a user name or a password, which are not sent; expected {expected}")
    if parts.scheme not in schemes or not host:
        raise ConfigError(f"{url[:100]!r} is not an address; expected {expected}")
    if parts.query or parts.fragment or not parts.path.isascii():
        raise ConfigError(f"{url[:100]!r} has a query, a fragment or a path that is not ASCII; expected {expected}")
    return parts
