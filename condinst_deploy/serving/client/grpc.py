"""gRPC transport with NVIDIA's `tritonclient` (extra `triton-client`)."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from condinst_deploy.errors import BackendError, ConfigError
from condinst_deploy.serving.client.transport import ServerUnavailable, address_of
from condinst_deploy.serving.client.wire import Reply
from condinst_deploy.serving.protocol import IMAGE
from condinst_deploy.support.extras import install_command

REFUSED = ("INVALID_ARGUMENT", "NOT_FOUND", "RESOURCE_EXHAUSTED", "UNIMPLEMENTED")
AGAIN = ("UNAVAILABLE", "DEADLINE_EXCEEDED", "CANCELLED")


class GrpcTransport:
    """Speaks to one server, `grpc://host:port`."""

    def __init__(self, url: str, timeout: float) -> None:
        """Take the address; nothing is connected yet.

        Raises:
            ConfigError: the address cannot be used.
            BackendError: the extra is not installed.
        """
        parts = address_of(url, "grpc")
        try:
            from tritonclient import grpc
            from tritonclient.utils import InferenceServerException
        except ImportError as e:
            raise BackendError(
                f"grpc:// needs tritonclient ({e}): {install_command('triton-client')}, or use http://"
            ) from e
        self._library, self._error, self._timeout, self.url = grpc, InferenceServerException, timeout, url
        self._client = grpc.InferenceServerClient(parts.netloc)

    def infer(self, model: str, content: bytes, parameters: Mapping[str, str | int], outputs: Sequence[str]) -> Reply:
        """Ask a model about one encoded image; see `Transport`."""
        tensor = self._library.InferInput(IMAGE, [1, 1], "BYTES")
        tensor.set_data_from_numpy(np.array([[content]], dtype=np.object_))
        wanted = [self._library.InferRequestedOutput(name) for name in outputs]
        with self._translated():
            answer = self._client.infer(
                model, [tensor], outputs=wanted, parameters=dict(parameters), client_timeout=self._timeout
            )
            arrays = {name: answer.as_numpy(name) for name in outputs}
        return Reply({name: array for name, array in arrays.items() if array is not None})

    def config(self, model: str) -> dict[str, Any]:
        """The configuration of a model; see `Transport`."""
        with self._translated():
            found: dict[str, Any] = self._client.get_model_config(model, as_json=True, client_timeout=self._timeout)
        config: dict[str, Any] = found["config"]
        return config

    def ready(self, model: str | None = None) -> bool:
        """Return whether the server or a model is ready; see `Transport`."""
        try:
            if model is None:
                return bool(self._client.is_server_ready(client_timeout=self._timeout))
            return bool(self._client.is_model_ready(model, client_timeout=self._timeout))
        except self._error:
            return False

    def reload(self, model: str) -> None:
        """Unload and load a model; see `Transport`."""
        try:
            with self._translated():
                self._client.unload_model(model, client_timeout=self._timeout)
                self._client.load_model(model, client_timeout=self._timeout)
        except ConfigError as e:
            raise BackendError(f"the server does not load {model} again: {e}") from e

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except self._error as e:
            status, reason = str(e.status() or ""), str(e.message() or e)[:500]
            if any(word in status for word in REFUSED):
                raise ConfigError(reason) from e
            if any(word in status for word in AGAIN):
                raise ServerUnavailable(f"{self.url} does not answer ({reason})") from e
            raise BackendError(f"{self.url} failed: {reason}") from e
