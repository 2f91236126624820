"""The client against answers that are malformed: an error of one line, never another exception."""

import json
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from condinst_deploy import BackendError, InstanceDetections
from condinst_deploy.serving import Client
from condinst_deploy.serving.client.wire import HEADER
from condinst_deploy.serving.protocol import BOXES, IMAGE_SIZE, LABELS, RLE_COUNTS, SCORES
from tests.support.fake_server import Answer, encoded_answer, fake_server
from tests.support.served_answers import IMAGE, MANIFEST, good, inferences, outputs


def wrong_answers() -> dict[str, Answer]:
    body, header = good().body, dict(good().headers)

    def changed(**values: Any) -> Answer:
        return encoded_answer(outputs(**values))

    def described(change: Callable[[dict[str, Any]], None]) -> Answer:
        length = int(header[HEADER])
        head = json.loads(body[:length])
        change(head)
        text = json.dumps(head).encode()
        return Answer(body=text + body[length:], headers={HEADER: str(len(text))})

    def first(name: str, value: Any) -> Answer:
        return described(lambda head: head["outputs"][0].update({name: value}))

    rle = outputs()[RLE_COUNTS]
    return {
        "no JSON": Answer(body=b"<html>"),
        "a list": Answer(body=b"[]"),
        "nothing": Answer(body=b""),
        "deep JSON": Answer(body=b"[" * 100_000),
        "no outputs": Answer(body=b'{"outputs": 3}'),
        "another service": Answer(body=b'{"detections": []}'),
        "length of the header: too small": Answer(body=body, headers={HEADER: "5"}),
        "length of the header: too large": Answer(body=body, headers={HEADER: str(10**6)}),
        "length of the header: endless": Answer(body=body, headers={HEADER: "9" * 5000}),
        "length of the header: no number": Answer(body=body, headers={HEADER: "many"}),
        "data is missing": Answer(body=body[:-8], headers=header),
        "a negative size": first("parameters", {"binary_data_size": -5}),
        "an endless size": first("parameters", {"binary_data_size": 1e400}),
        "a shape that does not fit": first("shape", [1, 2, 5]),
        "a negative shape": first("shape", [1, -2, -4]),
        "a huge shape": first("shape", [1, 2**62, 4]),
        "a shape that is a word": first("shape", "many"),
        "an unknown type": first("datatype", "FP7"),
        "BYTES of no length": encoded_answer(outputs(**{RLE_COUNTS: np.zeros((1, 3), np.uint8)})),
        **{f"without {name}": changed(**{name: None}) for name in outputs()},
        "boxes of another number": changed(**{BOXES: np.zeros((1, 3, 4), np.float32)}),
        "boxes of five sides": changed(**{BOXES: np.zeros((1, 2, 5), np.float32)}),
        "one mask": changed(**{RLE_COUNTS: rle[:1]}),
        "a mask of another size": changed(**{IMAGE_SIZE: np.array([[60, 40]], np.int32)}),
        "a negative image": changed(**{IMAGE_SIZE: np.array([[-6, -4]], np.int32)}),
        "no image": changed(**{IMAGE_SIZE: np.zeros((1, 0), np.int32)}),
        "an endless image": changed(**{IMAGE_SIZE: np.array([[np.inf, 4]], np.float32)}),
        "a mask of noise": changed(**{RLE_COUNTS: [b"\xff\xfe\x00", rle[1]]}),
        "a mask of other words": changed(**{RLE_COUNTS: [b"hello world", rle[1]]}),
        "a class that there is not": changed(**{LABELS: np.array([[1, 99]], np.int32)}),
        "a negative class": changed(**{LABELS: np.array([[1, -1]], np.int32)}),
        "a score that is no number": changed(**{SCORES: np.array([[0.9, np.nan]], np.float32)}),
        "a box without an end": changed(**{BOXES: np.full((1, 2, 4), np.inf, np.float32)}),
        "a redirection": Answer(302, b"", {"Location": "http://192.0.2.1/"}),
        "no content": Answer(204, b""),
        "a page of a gateway": Answer(500, b"<html>\n<h1>Internal error</h1>\n</html>"),
    }


@pytest.mark.parametrize("name", wrong_answers())
def test_an_answer_that_is_wrong_is_one_line(name: str) -> None:
    answer = wrong_answers()[name]
    with (
        fake_server(lambda *_: answer, MANIFEST) as server,
        Client(server.url, retries=0, timeout=5) as client,
        pytest.raises(BackendError) as raised,
    ):
        client([IMAGE])
    assert len(str(raised.value)) < 1000
    assert "\n" not in str(raised.value)


def found_or_refused(client: Client) -> InstanceDetections | str:
    """Detections of one image, or what the client says is wrong with the answer."""
    try:
        return client([IMAGE])[0]
    except BackendError as e:
        return str(e)


def test_an_answer_with_any_bytes_changed_is_detections_or_one_line() -> None:
    chance, whole = random.Random(0), good()
    start = int(dict(whole.headers)[HEADER])

    def damaged(number: int, path: str, body: bytes) -> Answer:
        content = bytearray(whole.body)
        for _ in range(chance.choice((1, 1, 3, 20))):
            content[chance.randrange(start if number % 2 else 0, len(content))] = chance.randrange(256)
        if chance.random() < 0.2:
            del content[chance.randrange(len(content)) :]
        return Answer(body=bytes(content), headers=whole.headers)

    with fake_server(damaged, MANIFEST) as server, Client(server.url, retries=0, in_flight=1) as client:
        results = [found_or_refused(client) for _ in range(300)]
    detections = [found for found in results if isinstance(found, InstanceDetections)]
    for found in detections:
        assert np.isfinite(found.boxes).all()
        assert np.asarray(found.masks).shape == (len(found), *found.masks.size)
    assert not any("\n" in raised for raised in results if isinstance(raised, str))
    assert 20 < len(detections) < 280


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"parameters": {}},
        {"parameters": {"condinst_manifest": {"string_value": "no JSON"}}},
        {"parameters": {"condinst_manifest": {"string_value": "[]"}}},
        {"parameters": {"condinst_manifest": {"string_value": '{"family": 3}'}}},
        {"parameters": 3},
    ],
)
def test_a_model_of_somebody_else_is_one_line(config: Any) -> None:
    with (
        fake_server(good, None, config) as server,
        Client(server.url) as client,
        pytest.raises(BackendError, match="is not one of condinst-triton-repo"),
    ):
        client([IMAGE])
    assert inferences(server) == 0
