"""A server of KServe's v2 protocol on loopback that answers as a test says."""

import json
import ssl
import struct
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import numpy.typing as npt

from condinst_deploy.contract import ModelManifest
from condinst_deploy.serving.client.wire import HEADER
from condinst_deploy.serving.protocol import MANIFEST_PARAMETER

DTYPES = {"float32": "FP32", "int32": "INT32", "uint8": "UINT8"}


@dataclass(frozen=True)
class Answer:
    """What is sent back."""

    status: int = 200
    body: bytes = b"{}"
    headers: Mapping[str, str] = field(default_factory=dict)  # beside Content-Length, which they can replace


DROP = Answer(status=0)
"""The connection is closed without an answer."""

Behaviour = Callable[[int, str, bytes], Answer]
"""Number of the request from 0, its path, its body -> the answer; configurations are not asked of it."""


def encoded_answer(outputs: Mapping[str, npt.NDArray[Any] | Sequence[bytes]]) -> Answer:
    """An answer with arrays, or with BYTES of shape `(1, n)`, in Triton's binary form."""
    described, parts = [], []
    for name, values in outputs.items():
        if isinstance(values, np.ndarray):
            kind, shape, data = DTYPES[str(values.dtype)], list(values.shape), values.tobytes()
        else:
            kind, shape = "BYTES", [1, len(values)]
            data = b"".join(struct.pack("<I", len(value)) + value for value in values)
        size = {"binary_data_size": len(data)}
        described.append({"name": name, "datatype": kind, "shape": shape, "parameters": size})
        parts.append(data)
    head = json.dumps({"model_name": "condinst", "outputs": described}).encode()
    return Answer(body=head + b"".join(parts), headers={HEADER: str(len(head))})


@dataclass
class FakeServer:
    """What was asked of it."""

    url: str
    paths: list[str] = field(default_factory=list)
    most_at_once: int = 0


def _listening(handler: type[BaseHTTPRequestHandler], tls: ssl.SSLContext | None) -> tuple[ThreadingHTTPServer, str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    if tls is None:
        return server, f"http://127.0.0.1:{server.server_port}"
    # the handshake is each connection's own thread's
    server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    return server, f"https://localhost:{server.server_port}"


@contextmanager
def fake_server(
    behaviour: Behaviour, manifest: ModelManifest | None, config: Any = None, tls: ssl.SSLContext | None = None
) -> Iterator[FakeServer]:
    """Run a server in threads of this process.

    Args:
        behaviour: answers everything but configurations.
        manifest: of the model that it serves.
        config: the model's configuration in place of one with the manifest.
        tls: certificate and key, for `https://localhost`; None: `http://127.0.0.1`.
    """
    lock, state = threading.Lock(), {"number": 0, "at_once": 0}
    if config is None and manifest is not None:
        config = {"name": "condinst", "parameters": {MANIFEST_PARAMETER: {"string_value": manifest.to_json()}}}

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 30

        def log_message(self, *_: Any) -> None:
            """Nothing on standard error."""

        def do_GET(self) -> None:
            self.handle_request()

        def do_POST(self) -> None:
            self.handle_request()

        def handle_request(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            found.paths.append(self.path)
            if self.path.endswith("/config"):
                self.send(Answer(body=json.dumps(config).encode()))
                return
            with lock:
                number, state["number"] = state["number"], state["number"] + 1
                state["at_once"] += 1
                found.most_at_once = max(found.most_at_once, state["at_once"])
            try:
                answer = behaviour(number, self.path, body)
            finally:
                with lock:
                    state["at_once"] -= 1
            self.send(answer)

        def send(self, answer: Answer) -> None:
            if answer == DROP:
                self.close_connection = True
                self.connection.close()
                return
            with suppress(BrokenPipeError, ConnectionResetError):  # the client had enough
                self.send_response(answer.status)
                for name, value in ({"Content-Length": str(len(answer.body))} | dict(answer.headers)).items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(answer.body)

    server, url = _listening(Handler, tls)
    found = FakeServer(url)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield found
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
