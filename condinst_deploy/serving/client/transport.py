"""Interface of the client's transports, and the errors that they share."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from condinst_deploy.errors import BackendError
from condinst_deploy.serving.client.wire import Reply


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
