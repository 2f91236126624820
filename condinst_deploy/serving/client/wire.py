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

HEADER = "Inference-Header-Content-Length"
DTYPES = {"FP32": np.float32, "INT32": np.int32, "UINT8": np.uint8}
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
    text = json.dumps({"inputs": [tensor], "outputs": wanted, "parameters": dict(parameters)}).encode()
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
            data, place = body[place : place + size], place + size
            arrays[str(output["name"])] = _array(output["datatype"], shape, data)
    except (ValueError, KeyError, TypeError, AttributeError, struct.error) as e:
        raise BackendError(f"the server's answer cannot be read ({e}); is it a model of condinst-triton-repo?") from e
    return Reply(arrays)


def _array(kind: str, shape: tuple[int, ...], data: bytes) -> npt.NDArray[Any]:
    if kind != "BYTES":
        return np.frombuffer(data, dtype=DTYPES[kind]).reshape(shape)
    texts, place = [], 0
    while place < len(data):
        (length,) = struct.unpack_from("<I", data, place)
        texts.append(data[place + 4 : place + 4 + length])
        place += 4 + length
    flat = np.empty(len(texts), dtype=np.object_)
    flat[:] = texts
    return flat.reshape(shape)
