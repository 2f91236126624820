"""Requests that are accepted, and parts that are refused."""

from typing import Any

import numpy as np
import pytest

from condinst_deploy.errors import BackendError, ConfigError
from condinst_deploy.serving.client.wire import reply_of, request_body
from condinst_deploy.serving.protocol import RequestOptions, labels_of


@pytest.mark.parametrize(
    ("parameters", "options"),
    [
        ({}, RequestOptions()),
        ({"score_threshold": 0.5}, RequestOptions(0.5)),
        ({"score_threshold": "0.25", "max_detections": "7"}, RequestOptions(0.25, None, 7)),
        ({"score_threshold": 1}, RequestOptions(1.0)),
        ({"classes": "cat, dog ,"}, RequestOptions(classes=("cat", "dog"))),
        ({"masks": "none"}, RequestOptions(masks="none")),
    ],
)
def test_parameters_become_options(parameters: dict[str, Any], options: RequestOptions) -> None:
    assert RequestOptions.from_parameters(parameters) == options


@pytest.mark.parametrize(
    ("parameters", "reason"),
    [
        ({"treshold": 1}, "unknown parameter 'treshold'"),
        ({"score_treshold": 1}, "Did you mean 'score_threshold'"),
        ({"score_threshold": "high"}, "score_threshold is 'high'; expected a number"),
        ({"score_threshold": float("nan")}, "score_threshold is nan"),
        ({"score_threshold": "inf"}, "score_threshold is inf"),
        ({"score_threshold": -0.1}, "expected a number from 0 to 1"),
        ({"score_threshold": True}, "score_threshold is True"),
        ({"score_threshold": "1" * 5000}, "expected a number"),
        ({"max_detections": 0}, "max_detections is 0; expected a whole number from 1 to 10000"),
        ({"max_detections": 2.5}, "max_detections is 2.5; expected a whole number"),
        ({"max_detections": "1e3"}, "expected a whole number"),
        ({"classes": " , "}, "classes names no class"),
        ({"classes": 3}, "classes is 3"),
        ({"classes": "x" * 20_000}, "expected class names"),
        ({"masks": "png"}, "masks is 'png'; expected one of rle, dense, none"),
        ({"masks": ["rle"]}, "masks is"),
    ],
)
def test_parameters_that_cannot_be_used_are_refused(parameters: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError) as raised:
        RequestOptions.from_parameters(parameters)
    assert reason in str(raised.value)
    assert len(str(raised.value)) < 300


@pytest.mark.parametrize(
    "options", [RequestOptions(), RequestOptions(0.1 + 0.2, ("a", "b c"), 3, "dense"), RequestOptions(masks="none")]
)
def test_options_survive_the_way_to_the_server(options: RequestOptions) -> None:
    assert RequestOptions.from_parameters(options.to_parameters()) == options


def test_classes_are_found_by_name() -> None:
    assert labels_of(["dog", "cat"], ["cat", "cow", "dog"]) == {0, 2}
    with pytest.raises(ConfigError, match=r"the model has no class 'dogg'.*Did you mean 'dog'"):
        labels_of(["dogg"], ["cat", "cow", "dog"])


def test_a_request_says_how_long_its_json_is() -> None:
    body, length = request_body(b"\x00\xff" * 5, {"masks": "none"}, ["BOXES"])
    assert body[:length].endswith(b"}")
    assert body[length:] == (10).to_bytes(4, "little") + b"\x00\xff" * 5


def test_an_answer_is_read_in_order_of_its_outputs() -> None:
    boxes, counts = np.arange(8, dtype=np.float32), b"\x03\x00\x00\x00abc\x00\x00\x00\x00"
    text = (
        b'{"outputs":[{"name":"BOXES","datatype":"FP32","shape":[1,2,4],"parameters":{"binary_data_size":32}},'
        b'{"name":"RLE_COUNTS","datatype":"BYTES","shape":[1,2],"parameters":{"binary_data_size":11}}]}'
    )
    arrays = reply_of(text + boxes.tobytes() + counts, len(text)).arrays
    assert np.array_equal(arrays["BOXES"], boxes.reshape(1, 2, 4))
    assert arrays["RLE_COUNTS"].tolist() == [[b"abc", b""]]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b'{"outputs": 3}',
        b'{"outputs":[{"name":"BOXES","datatype":"FP32","shape":[1,2,4],"parameters":{"binary_data_size":4}}]}',
        b'{"outputs":[{"name":"BOXES","datatype":"FP99","shape":[1]}]}',
        b'{"outputs":[{"name":"C","datatype":"BYTES","shape":[1],"parameters":{"binary_data_size":2}}]}\x05\x00',
    ],
)
def test_an_answer_of_another_form_is_an_error(body: bytes) -> None:
    length = body.find(b"}]}") + 3 if b"}]}" in body else len(body)
    with pytest.raises(BackendError, match="cannot be read"):
        reply_of(body, length)
