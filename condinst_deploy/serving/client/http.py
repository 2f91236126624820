"""HTTP transport with the standard library: a connection for each thread, kept open."""

import http.client
import io
import json
import math
import socket
import time
from collections.abc import Mapping, Sequence
from functools import cache
from threading import Lock, local
from typing import Any, Literal
from urllib.parse import quote

from condinst_deploy.errors import BackendError, ConfigError
from condinst_deploy.serving.client.transport import ServerUnavailable, address_of
from condinst_deploy.serving.client.wire import HEADER, LARGEST_ANSWER, Reply, reply_of, request_body

BUSY = (429, 502, 503, 504)
REASON_CHARACTERS = 500
DIGITS = 10
"""Of the largest length in a header; `int` refuses endless ones."""


class _HttpConnection(http.client.HTTPConnection):
    """A connection on which a request ends in time, also if the server sends a byte now and then."""

    ends = math.inf  # of the request, by `time.monotonic`

    def connect(self) -> None:
        """Connect; what is sent and received is timed."""
        super().connect()
        self.sock = _TimedSocket(self.sock, self)


@cache
def tls_connection() -> type[_HttpConnection]:
    """The same with TLS. What is timed is the socket behind the handshake, which has the timeout of the connection.

    Raises:
        ConfigError: this Python has no `ssl`.
    """
    if not hasattr(http.client, "HTTPSConnection"):
        raise ConfigError("this Python has no module ssl; expected an address with http://, or a Python with ssl")

    class TlsConnection(_HttpConnection, http.client.HTTPSConnection):
        """Its `connect` comes first, and wraps what TLS has made."""

    return TlsConnection


class _TimedSocket:
    """As much of a socket as `http.client` uses; each operation has the time that is left of the request."""

    def __init__(self, connected: socket.socket, connection: _HttpConnection) -> None:
        self._socket, self._connection = connected, connection

    def limit(self) -> None:
        """Give the next operation the time that is left.

        Raises:
            TimeoutError: none is left.
        """
        left = self._connection.ends - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._socket.settimeout(left)

    def sendall(self, data: bytes) -> None:
        """Send all of it."""
        self.limit()
        self._socket.sendall(data)

    def makefile(self, mode: Literal["rb"]) -> io.BufferedReader:
        """A stream of what is received; the socket stays open until it is closed, too."""
        return io.BufferedReader(_TimedStream(self, self._socket.makefile(mode, buffering=0)))

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


class _TimedStream(io.RawIOBase):
    def __init__(self, timed: _TimedSocket, stream: socket.SocketIO) -> None:
        self._timed, self._stream = timed, stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._timed.limit()
        return self._stream.readinto(buffer)

    def close(self) -> None:
        self._stream.close()
        super().close()


class HttpTransport:
    """Speaks to one server, `http://host:port` or `https://host:port`."""

    def __init__(self, url: str, timeout: float) -> None:
        """Take the address; nothing is connected yet.

        Raises:
            ConfigError: the address cannot be used.
        """
        parts = address_of(url, "http", "https")
        self._host, self._port = parts.hostname, parts.port
        self._kind = tls_connection() if parts.scheme == "https" else _HttpConnection
        self._prefix, self._timeout, self.url = parts.path.rstrip("/"), timeout, url
        self._local, self._lock = local(), Lock()
        self._open: list[_HttpConnection] = []

    def infer(self, model: str, content: bytes, parameters: Mapping[str, str | int], outputs: Sequence[str]) -> Reply:
        """Ask a model about one encoded image; see `Transport`."""
        body, length = request_body(content, parameters, outputs)
        path = f"/v2/models/{quote(model, safe='')}/infer"
        headers = {HEADER: str(length), "Content-Type": "application/octet-stream"}
        answer, json_length = self._ask("POST", path, body, headers)
        return reply_of(answer, json_length)

    def config(self, model: str) -> dict[str, Any]:
        """The configuration of a model; see `Transport`."""
        body, _ = self._ask("GET", f"/v2/models/{quote(model, safe='')}/config")
        return _object(body)

    def ready(self, model: str | None = None) -> bool:
        """Return whether the server or a model is ready; see `Transport`."""
        path = "/v2/health/ready" if model is None else f"/v2/models/{quote(model, safe='')}/ready"
        try:
            self._ask("GET", path)
        except (BackendError, ConfigError):
            return False
        return True

    def reload(self, model: str) -> None:
        """Unload and load a model; see `Transport`."""
        for verb in ("unload", "load"):
            try:
                self._ask("POST", f"/v2/repository/models/{quote(model, safe='')}/{verb}", b"{}")
            except ConfigError as e:
                raise BackendError(f"the server does not {verb} {model}: {e}") from e

    def close(self) -> None:
        """Close the connections of all threads."""
        with self._lock:
            connections, self._open = self._open, []
        for connection in connections:
            connection.close()
        self._local = local()

    def _ask(
        self, verb: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> tuple[bytes, int | None]:
        """Body of an answer, and the length of its JSON part if the server says so."""
        connection = self._connection()
        connection.ends = time.monotonic() + self._timeout
        try:
            connection.request(verb, self._prefix + path, body, dict(headers or {}))
            answer = connection.getresponse()
            content = answer.read(LARGEST_ANSWER + 1)
            if answer.length and len(content) <= LARGEST_ANSWER:  # `read` of a limited size does not notice it
                raise http.client.IncompleteRead(content, answer.length)
        except (OSError, http.client.HTTPException) as e:
            connection.close()  # it is in an unknown state; the next request opens it again
            reason = "no answer in time" if isinstance(e, TimeoutError | socket.timeout) else str(e) or type(e).__name__
            raise ServerUnavailable(f"{self.url} does not answer ({reason[:REASON_CHARACTERS]})") from e
        if len(content) > LARGEST_ANSWER:
            connection.close()
            raise BackendError(f"{self.url} answers with more than {LARGEST_ANSWER} bytes")
        if answer.status != http.client.OK:
            raise _refusal(self.url, answer.status, content)
        length = answer.getheader(HEADER) or ""
        return content, int(length) if length.isdecimal() and len(length) <= DIGITS else None

    def _connection(self) -> "_HttpConnection":
        found: _HttpConnection | None = getattr(self._local, "connection", None)
        if found is None:
            assert self._host is not None
            found = self._kind(self._host, self._port, timeout=self._timeout)
            self._local.connection = found
            with self._lock:
                self._open.append(found)
        return found


def _refusal(url: str, status: int, content: bytes) -> Exception:
    """The error for a status other than 200."""
    reason = _reason(content)
    if status in BUSY:
        return ServerUnavailable(f"{url} is busy or not ready ({status}): {reason}")
    if 400 <= status < 500:
        return ConfigError(reason)
    return BackendError(f"{url} failed ({status}): {reason}")


def _reason(content: bytes) -> str:
    try:
        text = str(json.loads(content)["error"])
    except (ValueError, KeyError, TypeError, RecursionError):
        text = content.decode("utf-8", "replace").strip() or "no reason given"
    return " ".join(text.split())[:REASON_CHARACTERS]  # a gateway's page has many lines


def _object(content: bytes) -> dict[str, Any]:
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as e:
        raise BackendError(f"the server's answer is not JSON ({e})") from e
    if not isinstance(found, dict):
        raise BackendError("the server's answer is not a JSON object")
    return found
