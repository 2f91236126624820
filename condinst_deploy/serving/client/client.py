"""Ask a served model as if it were a `Predictor`: images in, the same `InstanceDetections` out."""

import io
import json
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from condinst_deploy.contract import InstanceDetections, ModelManifest
from condinst_deploy.errors import ArtifactError, BackendError, CondInstError, ConfigError, ImageError
from condinst_deploy.imaging.decode import file_content, rgb_from, source_name
from condinst_deploy.imaging.image_files import expand_sources
from condinst_deploy.imaging.image_urls import ImageUrl
from condinst_deploy.masks import RLE, Masks
from condinst_deploy.runtime.pipeline import Prediction
from condinst_deploy.serving.client.transport import ServerUnavailable, Transport
from condinst_deploy.serving.client.wire import Reply
from condinst_deploy.serving.protocol import (
    BOXES,
    IMAGE_SIZE,
    LABELS,
    MANIFEST_PARAMETER,
    MODEL,
    RLE_COUNTS,
    SCORES,
    RequestOptions,
)
from condinst_deploy.shown_text import shown_value
from condinst_deploy.support.option_types import check_types
from condinst_deploy.support.remote_files import is_url

T = TypeVar("T")
LONGEST_NAME = 255
"""Characters of a model's name."""

LARGEST_FILE = 2**31 - 1
"""Bytes of an image's file; gRPC carries no more in a message."""

PAUSES = 0.1, 5.0
"""Seconds before the first repetition, and the most; each further one waits twice as long."""


@dataclass(frozen=True)
class _Arguments:
    """The arguments of a client, checked."""

    url: str
    model: str
    timeout: float
    retries: int
    in_flight: int
    options: RequestOptions | None
    pauses: tuple[float, float]

    def __post_init__(self) -> None:
        check_types(self)
        if not 0 < self.timeout <= 86_400 or not 0 <= self.retries <= 100 or not 1 <= self.in_flight <= 1024:
            raise ConfigError(
                f"timeout is {shown_value(self.timeout)}, retries {shown_value(self.retries)}, in_flight"
                f" {shown_value(self.in_flight)}; expected up to 86,400 seconds,"
                " 0 to 100 retries, 1 to 1,024 images in flight"
            )
        if not all(0 <= pause <= 86_400 for pause in self.pauses):
            raise ConfigError(f"pauses is {shown_value(self.pauses)}; expected two numbers of seconds, 0 to 86,400")
        if not self.model or not self.model.isprintable() or len(self.model) > LONGEST_NAME:
            raise ConfigError(f"the model is {shown_value(self.model)}; expected the name of a model on the server")


class Client(AbstractContextManager["Client"]):
    """One served model.

    >>> detections = Client("http://localhost:8000")(["street.jpg", array])

    Images travel encoded: a file as it is, an array as PNG. Masks come back as COCO RLE and stay compact. Threads may
    share a client.
    """

    def __init__(
        self,
        url: str,
        model: str = MODEL,
        *,
        timeout: float = 60.0,
        retries: int = 3,
        in_flight: int = 4,
        options: RequestOptions | None = None,
        pauses: tuple[float, float] = PAUSES,
    ) -> None:
        """Take the address; the server is asked when it is needed.

        Args:
            url: `http://host:port`, `https://host:port` or `grpc://host:port` (extra `triton-client`).
            model: the model's name on the server.
            timeout: seconds that one request may take.
            retries: how often a request is repeated that the server did not answer or was too busy for. A request
                that it refused, and one that failed inside the model, is not repeated.
            in_flight: images that `stream` has on the way at once.
            options: thresholds, classes and limits of every request; None: the model's own.
            pauses: seconds before the first repetition, and the most; each further one waits twice as long.

        Raises:
            ConfigError: an argument cannot be used.
            BackendError: the extra for gRPC is not installed.
        """
        _Arguments(url, model, timeout, retries, in_flight, options, pauses)
        self.model, self._retries, self._in_flight, self._pauses = model, retries, in_flight, pauses
        self._options = options or RequestOptions()
        self.transport = transport_for(url, timeout)
        self._manifest: ModelManifest | None = None

    @property
    def manifest(self) -> ModelManifest:
        """Return the served model's metadata; requested once.

        Raises:
            ConfigError: the server has no model of this name.
            ServerUnavailable: it does not answer.
            BackendError: the model is not one of this toolkit.
        """
        if self._manifest is None:
            config = self._repeated(lambda: self.transport.config(self.model))
            self._manifest = _manifest_in(config, self.model)
        return self._manifest

    def __call__(self, images: Any) -> list[InstanceDetections]:
        """Detect instances; see `Predictor.__call__` for what images may be. `bytes` are an encoded image.

        Raises:
            ImageError: an image cannot be read, or the server refuses it or the options, with the server's reason.
            BackendError: the server or the model fails.
        """
        sources = expand_sources(images)
        with closing(self.stream(sources)) as found:
            return [_detections(prediction) for prediction in found]

    def stream(self, images: Iterable[Any]) -> Generator[Prediction, None, None]:
        """Detect instances in images as they come; order is kept, and `in_flight` images are on the way at most.

        An image that cannot be read or that the server refuses yields a `Prediction` with its error.
        """
        manifest, pending = self.manifest, deque[tuple[str, Future[InstanceDetections]]]()
        with ThreadPoolExecutor(self._in_flight, "condinst-client") as threads:
            try:
                for position, source in enumerate(images):
                    pending.append((source_name(source, position), threads.submit(self._detect, source, manifest)))
                    if len(pending) >= self._in_flight:
                        yield _prediction(*pending.popleft())
                while pending:
                    yield _prediction(*pending.popleft())
            finally:
                for _, future in pending:
                    future.cancel()

    def close(self) -> None:
        """Close the connections."""
        self.transport.close()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _detect(self, source: Any, manifest: ModelManifest) -> InstanceDetections:
        content, outputs = encoded(source), [BOXES, SCORES, LABELS, IMAGE_SIZE, RLE_COUNTS]
        parameters = self._options.to_parameters()
        reply = self._repeated(lambda: self.transport.infer(self.model, content, parameters, outputs))
        return detections_from_reply(reply, manifest)

    def _repeated(self, ask: Callable[[], T]) -> T:
        """Ask again where that is safe: inference changes nothing on the server."""
        pause, longest = self._pauses
        for _ in range(self._retries):
            try:
                return ask()
            except ServerUnavailable:
                time.sleep(pause)
                pause = min(2 * pause, longest)
        return ask()


def transport_for(url: str, timeout: float) -> Transport:
    """The transport for an address.

    Raises:
        ConfigError: the address cannot be used.
        BackendError: the extra for gRPC is not installed.
    """
    # imported here: a client of one kind does not need the libraries of the other
    if url.lower().startswith("grpc://"):
        from condinst_deploy.serving.client.grpc import GrpcTransport

        return GrpcTransport(url, timeout)
    from condinst_deploy.serving.client.http import HttpTransport

    return HttpTransport(url, timeout)


def encoded(source: Any) -> bytes:
    """An image as an encoded file: a path's content as it is, anything else as PNG.

    Raises:
        ImageError: it cannot be read.
    """
    if isinstance(source, bytes):
        return source
    if isinstance(source, str) and is_url(source):
        source = ImageUrl(source)
    if isinstance(source, ImageUrl):
        return source.content()
    if isinstance(source, str | Path):
        return file_content(source, LARGEST_FILE)
    content = io.BytesIO()
    Image.fromarray(rgb_from(source)).save(content, "PNG", compress_level=1)
    return content.getvalue()


def detections_from_reply(reply: Reply, manifest: ModelManifest) -> InstanceDetections:
    """Detections of one answer.

    Raises:
        BackendError: the answer does not have the outputs of `protocol.py`.
    """
    arrays = reply.arrays
    try:
        height, width = (int(side) for side in arrays[IMAGE_SIZE][0])
        if min(height, width) < 1:
            raise ValueError(f"the image has {width}x{height} pixels")
        if not (np.isfinite(arrays[BOXES]).all() and np.isfinite(arrays[SCORES]).all()):
            raise ValueError("a box or a score is not a finite number")
        rles: list[RLE] = [{"size": [height, width], "counts": bytes(c)} for c in arrays[RLE_COUNTS][0]]
        return InstanceDetections(
            np.array(arrays[BOXES][0], dtype=np.float32),
            np.array(arrays[SCORES][0], dtype=np.float32),
            np.array(arrays[LABELS][0], dtype=np.int64),
            Masks.from_rle(rles, (height, width)),
            manifest.class_names,
            manifest.category_ids,
        )
    except (KeyError, IndexError, ValueError, TypeError, OverflowError, ConfigError) as e:
        raise BackendError(f"the server's answer does not hold detections ({e!r:.200})") from e


def _manifest_in(config: Mapping[str, Any], model: str) -> ModelManifest:
    try:
        text = config["parameters"][MANIFEST_PARAMETER]["string_value"]
        return ModelManifest.from_dict(json.loads(text))
    except (KeyError, TypeError, ValueError, ArtifactError) as e:
        raise BackendError(f"the served model {model} is not one of condinst-triton-repo ({e!r:.200})") from e


def _prediction(name: str, future: "Future[InstanceDetections]") -> Prediction:
    try:
        return Prediction(name, None, future.result())
    except (ImageError, ConfigError) as e:
        return Prediction(name, None, None, e if isinstance(e, ImageError) else ImageError(f"{name}: {e}"))


def _detections(prediction: Prediction) -> InstanceDetections:
    if prediction.detections is None:
        raise prediction.error or CondInstError(f"{prediction.name} has no detections")
    return prediction.detections
