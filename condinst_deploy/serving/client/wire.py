"""KServe's v2 protocol with Triton's binary extension: requests and answers as bytes, without a network."""

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from condinst_deploy.errors import BackendError
from condinst_deploy.serving.protocol import IMAGE
from condinst_deploy.support.json_text import json_text

HEADER = "Inference-Header-Content-Length"
DTYPES = {"FP32": np.float32, "INT32": np.int32, "UINT8": np.uint8}
UNREADABLE = (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError, struct.error)
"""What Python raises where an answer has another form."""

LARGEST_ANSWER = 2**31
"""Bytes of an answer that a client reads."""


@dataclass(frozen=True)
class Reply:
    """A server's answer to one inference request."""

    arrays: Mapping[str, npt.NDArray[Any]]  # output name -> array; BYTES are object arrays of `bytes`


def request_body(content: bytes, parameters: Mapping[str, str | int], outputs: Sequence[str]) -> tuple[bytes, int]:
    """The body of an inference request for one encoded image.

    Returns:
        The body, and the length of its JSON part for the header `Inference-Header-Content-Length`.
    """
    data = struct.pack("<I", len(content)) + content
    tensor = {"name": IMAGE, "datatype": "BYTES", "shape": [1, 1], "parameters": {"binary_data_size": len(data)}}
    wanted = [{"name": name, "parameters": {"binary_data": True}} for name in outputs]
    text = json_text({"inputs": [tensor], "outputs": wanted, "parameters": dict(parameters)}, "a request").encode()
    return text + data, len(text)


def reply_of(body: bytes, header_length: int | None) -> Reply:
    """Read an answer.

    Raises:
        BackendError: it is not one.
    """
    length = len(body) if header_length is None else header_length
    try:
        values = json.loads(body[:length])
        place, arrays = length, {}
        for output in values["outputs"]:
            shape = tuple(int(side) for side in output["shape"])
            size = int(output.get("parameters", {}).get("binary_data_size", 0))
            if not 0 <= size <= len(body) - place:
                raise ValueError(f"an output has {size} bytes; {len(body) - place} are left")
            data, place = body[place : place + size], place + size
            arrays[str(output["name"])] = _array(output["datatype"], shape, data)
    except UNREADABLE as e:
        raise BackendError(
            f"the server's answer cannot be read ({e!s:.200}); is it a model of condinst-triton-repo?"
        ) from e
    return Reply(arrays)


def _array(kind: str, shape: tuple[int, ...], data: bytes) -> npt.NDArray[Any]:
    if kind != "BYTES":
        return np.frombuffer(data, dtype=DTYPES[kind]).reshape(shape)
    texts, place = [], 0
    while place < len(data):
        (length,) = struct.unpack_from("<I", data, place)
        place += 4 + length
        if place > len(data):
            raise ValueError(f"a text of {length} bytes ends after its output")
        texts.append(data[place - length : place])
    flat = np.empty(len(texts), dtype=np.object_)
    flat[:] = texts
    return flat.reshape(shape)
