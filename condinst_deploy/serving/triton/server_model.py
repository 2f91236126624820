"""Models for Triton's Python backend: `model.py` of a repository is one line that imports a class from here.

Everything that needs no server is in `service.py`; here requests become its arguments, and answers responses.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb

from condinst_deploy.contract import INPUTS, NetworkInputs, NetworkOutputs
from condinst_deploy.contract import OUTPUTS as NETWORK_OUTPUTS
from condinst_deploy.errors import BackendError, CondInstError, ConfigError, ImageError
from condinst_deploy.runtime.backend import Backend
from condinst_deploy.runtime.predictor import Predictor, load_backend
from condinst_deploy.serving.protocol import (
    BOXES,
    IMAGE,
    IMAGE_SIZE,
    LABELS,
    MASKS,
    NETWORK,
    RLE_COUNTS,
    SCORES,
    RequestOptions,
)
from condinst_deploy.serving.triton.network_backend import NetworkBackend
from condinst_deploy.serving.triton.repository_settings import ServerSettings
from condinst_deploy.serving.triton.service import Answer, ImageRequest, ImageService
from condinst_deploy.serving.triton.stage_metrics import StageMetrics, log_line

CANARY = (64, 64)
"""Height and width of the grey image that every instance is tried with before it is ready."""


def settings_of(arguments: Mapping[str, str]) -> ServerSettings:
    """Settings beside `model.py`, from the arguments of `initialize`."""
    return ServerSettings.read(folder_of(arguments))


def folder_of(arguments: Mapping[str, str]) -> Path:
    """The version's folder."""
    return Path(arguments["model_repository"]) / arguments["model_version"]


def loaded(arguments: Mapping[str, str], settings: ServerSettings) -> Backend:
    """The backend of the model file beside `model.py`, on this instance's device."""
    gpu = arguments.get("model_instance_kind") == "GPU"
    device = f"cuda:{arguments['model_instance_device_id']}" if gpu else settings.device
    return load_backend(folder_of(arguments) / settings.model, device, None if gpu else settings.threads)


class ImageModel:
    """The model that clients ask: an encoded image in, detections out."""

    def initialize(self, arguments: Mapping[str, str]) -> None:
        """Load the model and run it once, so that an instance that cannot work is never ready."""
        settings = settings_of(arguments)
        self._name, self._metrics = arguments["model_name"], StageMetrics(arguments["model_name"])
        backend = loaded(arguments, settings) if settings.model else NetworkBackend(settings.manifest, ask_network)
        self._predictor = Predictor(
            backend, batch_size=settings.max_batch, observer=self._metrics, canvases=settings.canvases
        )
        self._service = ImageService(self._predictor, settings.limits)
        if settings.model:  # another model may not be loaded yet
            self._predictor([np.full((*CANARY, 3), 128, dtype=np.uint8)])

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer requests that the server merged."""
        read = [_read(request) for request in requests]
        good = [entry for entry in read if isinstance(entry, ImageRequest)]
        answers = iter(self._service.answers(good))
        done = [next(answers) if isinstance(entry, ImageRequest) else entry for entry in read]
        self._log(requests, read, done)
        return [_response(answer) for answer in done]

    def _log(self, requests: list[Any], read: list[Any], done: list[Answer | CondInstError]) -> None:
        """One JSON line for each request; stage times are those of the whole batch."""
        stages = self._metrics.taken()
        for request, entry, answer in zip(requests, read, done, strict=True):
            line: dict[str, Any] = {"model": self._name, "id": str(request.request_id())[:100], "batch": len(requests)}
            if isinstance(entry, ImageRequest):
                line["bytes"] = len(entry.content)
            if isinstance(answer, Answer):
                line |= {"size": list(answer.detections.masks.size), "instances": len(answer.detections)}
            else:
                line["error"] = type(answer).__name__
            print(log_line(line | {"ms": stages}), flush=True)  # the server's standard output

    def finalize(self) -> None:
        """Release the model."""
        self._predictor.close()


class NetworkModel:
    """The network alone, for servers without a TensorRT or ONNX Runtime backend."""

    def initialize(self, arguments: Mapping[str, str]) -> None:
        """Load the model."""
        self._backend = loaded(arguments, settings_of(arguments))

    def execute(self, requests: list[Any]) -> list[Any]:
        """Run merged requests, which have images of one padded shape, as one batch."""
        parts = [NetworkInputs(*(_array(request, name) for name in INPUTS)) for request in requests]
        whole = NetworkInputs(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))
        try:
            outputs = self._backend.forward(whole).on_host()
        except CondInstError as e:
            return [_response(e) for _ in requests]
        ends = np.cumsum([len(part.images) for part in parts])[:-1]
        split = zip(*(np.split(np.asarray(array), ends) for array in outputs), strict=True)
        return [
            pb.InferenceResponse([pb.Tensor(n, a) for n, a in zip(NETWORK_OUTPUTS, one, strict=True)]) for one in split
        ]

    def finalize(self) -> None:
        """Release the model."""
        self._backend.close()


def ask_network(inputs: NetworkInputs) -> NetworkOutputs:
    """Run the network of the layout of two models, by a request inside the server."""
    request = pb.InferenceRequest(
        model_name=NETWORK,
        requested_output_names=list(NETWORK_OUTPUTS),
        inputs=[pb.Tensor(name, array) for name, array in zip(INPUTS, inputs, strict=True)],
    )
    response = request.exec()
    if response.has_error():
        raise BackendError(f"the model {NETWORK} failed: {response.error().message()[:500]}")
    arrays = (pb.get_output_tensor_by_name(response, name).as_numpy() for name in NETWORK_OUTPUTS)
    outputs = NetworkOutputs(*arrays)
    return outputs._replace(num_detections=outputs.num_detections.reshape(-1))  # the server's shape is (B, 1)


def _array(request: Any, name: str) -> Any:
    return pb.get_input_tensor_by_name(request, name).as_numpy()


def _read(request: Any) -> ImageRequest | CondInstError:
    content = _array(request, IMAGE)
    if content.size != 1:
        return ImageError(f"{IMAGE} has shape {content.shape}; expected (1, 1): one image a request")
    try:
        options = RequestOptions.from_parameters(json.loads(request.parameters() or "{}"))
    except ConfigError as e:
        return e
    return ImageRequest(bytes(content.item()), options)


def _response(answer: Answer | CondInstError) -> Any:
    if isinstance(answer, CondInstError):
        fault = isinstance(answer, ConfigError | ImageError)
        code = pb.TritonError.INVALID_ARG if fault else pb.TritonError.INTERNAL
        return pb.InferenceResponse(error=pb.TritonError(str(answer), code))
    found = answer.detections
    arrays = {
        BOXES: found.boxes,
        SCORES: found.scores,
        LABELS: found.labels.astype(np.int32),
        IMAGE_SIZE: np.array(found.masks.size, dtype=np.int32),
        RLE_COUNTS: np.array(answer.counts, dtype=np.object_),
    }
    if answer.dense is not None:
        arrays[MASKS] = answer.dense
    return pb.InferenceResponse([pb.Tensor(name, np.ascontiguousarray(array)[None]) for name, array in arrays.items()])
