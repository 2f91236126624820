"""The client over TLS: a certificate of a test's own, and one that nobody vouches for."""

import http.client
import shutil
import ssl
import subprocess
import threading
from pathlib import Path

import pytest

from condinst_deploy import ConfigError
from condinst_deploy.serving import Client
from condinst_deploy.serving.client.transport import ServerUnavailable
from tests.support.fake_server import Answer, fake_server
from tests.support.served_answers import IMAGE, MANIFEST, good, inferences


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with a key and its certificate of localhost, which the key itself has signed."""
    if shutil.which("openssl") is None:
        pytest.skip("needs the command openssl, which makes the certificate")
    path = tmp_path_factory.mktemp("tls") / "localhost.pem"
    key, public = path.with_suffix(".key"), path.with_suffix(".crt")
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "36500", "-subj", "/CN=localhost"]
    names = ["-addext", "subjectAltName=DNS:localhost"]
    subprocess.run([*command, *names, "-keyout", key, "-out", public], check=True, capture_output=True)
    path.write_bytes(key.read_bytes() + public.read_bytes())
    return path


@pytest.fixture
def tls(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


def test_an_answer_over_tls_becomes_detections(
    tls: ssl.SSLContext, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with fake_server(good, MANIFEST, tls=tls) as server, Client(server.url) as client:
        assert [len(found) for found in client([IMAGE] * 3)] == [2, 2, 2]
    assert inferences(server) == 3


def test_an_unknown_certificate_is_one_line(tls: ssl.SSLContext) -> None:
    with (
        fake_server(good, MANIFEST, tls=tls) as server,
        Client(server.url, retries=0) as client,
        pytest.raises(ServerUnavailable, match=r"https://localhost:\d+ does not answer .*certificate verify failed"),
    ):
        client([IMAGE])


def test_a_late_answer_over_tls_ends_in_time(
    tls: ssl.SSLContext, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    release = threading.Event()

    def late(number: int, path: str, body: bytes) -> Answer:
        release.wait(30)
        return good()

    with fake_server(late, MANIFEST, tls=tls) as server, Client(server.url, retries=0, timeout=0.5) as client:
        try:
            with pytest.raises(ServerUnavailable, match="no answer in time"):
                client([IMAGE])
        finally:
            release.set()


def test_a_python_without_ssl_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    from condinst_deploy.serving.client import http as transport

    transport.tls_connection.cache_clear()
    monkeypatch.delattr(http.client, "HTTPSConnection")
    with pytest.raises(ConfigError, match="this Python has no module ssl"):
        Client("https://localhost:1", retries=0)
