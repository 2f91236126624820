"""The client against a server that fails in every way that a test can think of; no real server is needed."""

import io
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from condinst_deploy import BackendError, CondInstError, ConfigError, ImageError
from condinst_deploy.serving import Client
from condinst_deploy.serving.client.health import check_health
from condinst_deploy.serving.client.transport import ServerUnavailable
from condinst_deploy.serving.protocol import BOXES, IMAGE_SIZE, LABELS, RLE_COUNTS, SCORES, RequestOptions
from tests.support.fake_server import DROP, Answer, Behaviour, encoded_answer, fake_server
from tests.support.served_answers import DENSE, IMAGE, MANIFEST, SIZE, good, inferences, outputs


def refusal(status: int, reason: str = "the reason") -> Answer:
    return Answer(status, json.dumps({"error": reason}).encode())


def in_turn(*answers: Answer) -> Behaviour:
    """These answers, and then good ones."""
    return lambda number, path, body: answers[number] if number < len(answers) else good()


client_at_once = partial(Client, pauses=(0.0, 0.0))
"""A client that does not wait before it repeats a request."""


def test_an_answer_becomes_detections() -> None:
    with fake_server(good, MANIFEST) as server, Client(server.url) as client:
        (found,) = client([IMAGE])
    assert found.boxes.tolist() == [[1, 1, 3, 3], [0, 5, 4, 6]]
    assert found.names == [MANIFEST.class_names[1], MANIFEST.class_names[0]]
    assert np.array_equal(np.asarray(found.masks), DENSE)


def test_no_instances_are_an_answer() -> None:
    empty = outputs(
        **{
            BOXES: np.zeros((1, 0, 4), np.float32),
            SCORES: np.zeros((1, 0), np.float32),
            LABELS: np.zeros((1, 0), np.int32),
            RLE_COUNTS: [],
        }
    )
    with fake_server(lambda *_: encoded_answer(empty), MANIFEST) as server, Client(server.url) as client:
        (found,) = client([IMAGE])
    assert (len(found), found.masks.size) == (0, SIZE)


@pytest.mark.parametrize("failure", [DROP, refusal(503), refusal(429), refusal(502), refusal(504)])
def test_what_was_not_answered_is_asked_again(failure: Answer) -> None:
    with fake_server(in_turn(failure, failure), MANIFEST) as server, client_at_once(server.url, retries=2) as client:
        assert len(client([IMAGE])) == 1
    assert inferences(server) == 3


def test_a_cut_off_answer_is_asked_again() -> None:
    cut = Answer(body=b"{}", headers={"Content-Length": "100", "Connection": "close"})
    with fake_server(in_turn(cut), MANIFEST) as server, client_at_once(server.url, retries=1, timeout=5) as client:
        assert len(client([IMAGE])) == 1
    assert inferences(server) == 2


@pytest.mark.parametrize(("failure", "retries"), [(DROP, 0), (refusal(503), 3)])
def test_retries_have_an_end(failure: Answer, retries: int) -> None:
    with (
        fake_server(lambda *_: failure, MANIFEST) as server,
        client_at_once(server.url, retries=retries) as client,
        pytest.raises(ServerUnavailable, match=r"does not answer|is busy or not ready \(503\): the reason"),
    ):
        client([IMAGE])
    assert inferences(server) == 1 + retries


def test_pauses_double_and_have_a_longest(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    with (
        fake_server(lambda *_: refusal(503), MANIFEST) as server,
        Client(server.url, retries=6, in_flight=1, pauses=(0.5, 5.0)) as client,
        pytest.raises(ServerUnavailable),
    ):
        client([IMAGE])
    assert pauses == [0.5, 1, 2, 4, 5, 5]


@pytest.mark.parametrize(
    ("failure", "error"), [(refusal(400), ImageError), (refusal(404), ImageError), (refusal(500), BackendError)]
)
def test_what_was_refused_or_failed_inside_is_not_asked_again(failure: Answer, error: type[CondInstError]) -> None:
    with (
        fake_server(lambda *_: failure, MANIFEST) as server,
        client_at_once(server.url, retries=5) as client,
        pytest.raises(error, match="the reason"),
    ):
        client([IMAGE])
    assert inferences(server) == 1


def test_a_server_that_takes_too_long_is_a_server_that_does_not_answer() -> None:
    release = threading.Event()

    def late(number: int, path: str, body: bytes) -> Answer:
        release.wait(30)
        return good()

    with fake_server(late, MANIFEST) as server, client_at_once(server.url, retries=1, timeout=0.2) as client:
        with pytest.raises(ServerUnavailable, match=r"does not answer \(no answer in time\)"):
            client([IMAGE])
        release.set()
    assert inferences(server) == 2


def test_nobody_listens() -> None:
    with fake_server(good, MANIFEST) as server:
        pass
    with client_at_once(server.url, retries=1) as client, pytest.raises(ServerUnavailable, match="Connection refused"):
        client([IMAGE])


def test_unloading_and_loading_are_never_repeated() -> None:
    with fake_server(lambda *_: refusal(503), MANIFEST) as server, client_at_once(server.url, retries=5) as client:
        found = check_health(client.transport)
    assert not found.answers
    assert [path for path in server.paths if "/repository/" in path] == [
        "/v2/repository/models/condinst_network/unload"
    ]


@pytest.mark.parametrize("in_flight", [1, 3])
def test_so_many_images_are_on_the_way_and_no_more(in_flight: int) -> None:
    together = threading.Barrier(in_flight)
    taken: list[int] = []

    def answer(number: int, path: str, body: bytes) -> Answer:
        together.wait(30)  # all of them are here at once, or this fails
        return good()

    def images() -> Iterator[Any]:
        for number in range(4 * in_flight):
            taken.append(number)
            yield IMAGE

    with fake_server(answer, MANIFEST) as server, Client(server.url, in_flight=in_flight) as client:
        for done, prediction in enumerate(client.stream(images()), 1):
            assert prediction.error is None
            assert len(taken) <= done + in_flight  # the source is not read ahead of what is on the way
    assert (server.most_at_once, inferences(server)) == (in_flight, 4 * in_flight)


def test_answers_keep_the_order_of_the_images() -> None:
    last = threading.Event()

    def answer(number: int, path: str, body: bytes) -> Answer:
        place = int(np.asarray(Image.open(io.BytesIO(body[body.index(b"\x89PNG") :])))[0, 0, 0])
        if place == 3:
            last.set()
        assert last.wait(30)  # the first image is answered after the last one
        return encoded_answer(outputs(**{IMAGE_SIZE: np.array([[6, 4]], np.int32), SCORES: scores_of(place)}))

    def scores_of(place: int) -> Any:
        return np.array([[place / 10, 0]], dtype=np.float32)

    images = [np.full((8, 8, 3), place, dtype=np.uint8) for place in range(4)]
    with fake_server(answer, MANIFEST) as server, Client(server.url, in_flight=4) as client:
        found = client(images)
    assert [round(10 * float(one.scores[0])) for one in found] == [0, 1, 2, 3]


def test_an_image_that_is_refused_does_not_stop_the_others() -> None:
    def answer(number: int, path: str, body: bytes) -> Answer:
        return refusal(400, "no image in a known format") if b"nothing" in body else good()

    with fake_server(answer, MANIFEST) as server, Client(server.url) as client:
        found = list(client.stream([IMAGE, b"nothing", "no such file.jpg", IMAGE]))
    assert [type(one.error) for one in found] == [type(None), ImageError, ImageError, type(None)]
    assert "no image in a known format" in str(found[1].error)
    assert inferences(server) == 3


def test_options_travel_with_each_request() -> None:
    bodies: list[bytes] = []

    def answer(number: int, path: str, body: bytes) -> Answer:
        bodies.append(body)
        return good()

    options = RequestOptions(score_threshold=0.25, classes=("a", "b"), max_detections=3)
    with fake_server(answer, MANIFEST) as server, Client(server.url, options=options) as client:
        client([IMAGE, IMAGE])
    for body in bodies:
        head = json.loads(body[: body.index(b"\x89PNG") - 4])
        assert head["parameters"] == {"score_threshold": "0.25", "classes": "a,b", "max_detections": 3}


@pytest.mark.parametrize(
    "url",
    [
        *("", "localhost:8000", "ftp://x", "http://", "http://x:port", "http://x:99999", "http://[::1"),
        *("http:// ", "http://a b", "http://x\r\nHost: y", "http://\udcff", "http://x/" + "y" * 3000),
        *(f"http://{'a' * 64}.org", "grpc://", "grpc://[::1", "grpc://a b"),
    ],
)
def test_an_address_that_is_none_is_one_line(url: str) -> None:
    with pytest.raises(ConfigError, match="is not an address") as raised:
        Client(url)
    assert len(str(raised.value)) < 400


@pytest.mark.parametrize("url", ["http://x/ü", "http://x?a=1", "http://x#a"])
def test_what_an_address_cannot_have_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="has a query, a fragment or a path that is not ASCII"):
        Client(url)


@pytest.mark.parametrize("scheme", ["http", "grpc"])
def test_a_password_is_refused_and_not_repeated(scheme: str) -> None:
    with pytest.raises(ConfigError, match="a user name or a password, which are not sent") as raised:
        Client(f"{scheme}://user:secret@host:1")
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("model", ["", "a\nb", "\udcff", "x" * 300])
def test_a_name_that_no_model_has_is_refused(model: str) -> None:
    with pytest.raises(ConfigError, match="expected the name of a model on the server"):
        Client("http://localhost:1", model)


def test_numbers_of_thousands_of_digits_are_one_line() -> None:
    with pytest.raises(ConfigError, match="retries a whole number of"):
        Client("http://localhost:1", retries=10**5000)
    with pytest.raises(ConfigError, match="max_detections is a whole number of"):
        RequestOptions(max_detections=10**5000)


def test_a_file_that_is_larger_than_a_request_is_not_sent(tmp_path: Path) -> None:
    with (tmp_path / "large.jpg").open("wb") as file:
        file.truncate(2**31)  # takes no room on the disk
    with fake_server(good, MANIFEST) as server, Client(server.url) as client:
        with pytest.raises(ImageError, match=r"large\.jpg: the file has 2147483648 bytes; expected at most 2147483647"):
            client(tmp_path / "large.jpg")
        with pytest.raises(ImageError, match=r"no image at .*none\.jpg"):
            client(tmp_path / "none.jpg")
    assert inferences(server) == 0


def test_an_image_that_is_a_pipe_or_a_device_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    with fake_server(good, MANIFEST) as server, Client(server.url) as client:
        found = list(client.stream([tmp_path / "pipe.jpg", "/dev/zero", tmp_path, IMAGE]))
    *refused, taken = (str(one.error) for one in found)
    assert [reason.endswith("; expected an image file") for reason in refused] == [True] * 3
    assert taken == "None"
    assert inferences(server) == 1


@contextmanager
def dripping(first: bytes, drop: bytes) -> Iterator[str]:
    """The address of a server that sends `first`, and then `drop` again and again, as long as the block runs."""
    done = threading.Event()

    def serve(listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=drip, args=(listener.accept()[0],), daemon=True).start()

    def drip(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            connection.recv(10_000)
            connection.sendall(first)
            while not done.wait(0.02):
                connection.sendall(drop)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, args=(listener,), daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        done.set()


@pytest.mark.parametrize(
    ("first", "drop"),
    [
        (b"HTTP/1.1 200 OK\r\nX: ", b"y"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n", b"x"),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    ],
    ids=["header", "body", "continue"],
)
def test_a_server_that_sends_a_byte_now_and_then_does_not_answer(first: bytes, drop: bytes) -> None:
    with (
        dripping(first, drop) as url,
        Client(url, retries=0, timeout=0.3) as client,
        pytest.raises(ServerUnavailable, match=r"does not answer \(no answer in time\)"),
    ):
        client([IMAGE])


def test_the_time_of_a_request_is_not_that_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]

    def answer(number: int, path: str, body: bytes) -> Answer:
        now[0] += 15.0
        return good()

    monkeypatch.setattr("condinst_deploy.serving.client.http.time", SimpleNamespace(monotonic=lambda: now[0]))
    with fake_server(answer, MANIFEST) as server, Client(server.url, retries=0, timeout=20, in_flight=1) as client:
        assert len(client([IMAGE] * 3)) == 3  # 45 s on one connection
    assert inferences(server) == 3


@pytest.mark.parametrize(
    "arguments", [{"timeout": 0}, {"timeout": float("nan")}, {"retries": -1}, {"in_flight": 0}, {"in_flight": 10**6}]
)
def test_arguments_out_of_range(arguments: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="expected up to 86,400 seconds"):
        Client("http://localhost:1", **arguments)


def test_a_path_in_front_of_the_server_is_kept() -> None:
    with fake_server(good, MANIFEST) as server, Client(f"{server.url}/behind/a/gateway/") as client:
        client([IMAGE])
    assert server.paths[-1] == "/behind/a/gateway/v2/models/condinst/infer"


def test_threads_share_a_client() -> None:
    found: list[int] = []
    with fake_server(good, MANIFEST) as server, Client(server.url, in_flight=2) as client:
        threads = [threading.Thread(target=lambda: found.append(len(client([IMAGE] * 5)))) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == [5] * 4
    assert inferences(server) == 20
