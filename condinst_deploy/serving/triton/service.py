"""Encoded images with options in, detections or one error each out; what runs inside the server, without the server."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from condinst_deploy.contract import InstanceDetections
from condinst_deploy.errors import CondInstError, ConfigError, ImageError
from condinst_deploy.imaging.decode import rgb_from_bytes
from condinst_deploy.runtime.postprocess import ResultFilter
from condinst_deploy.runtime.predictor import Predictor
from condinst_deploy.runtime.predictor_options import rounded_up
from condinst_deploy.serving.protocol import RequestOptions, labels_of
from condinst_deploy.serving.triton.limits import Limits


@dataclass(frozen=True, eq=False)
class ImageRequest:
    """One image and what is asked about it."""

    content: bytes  # the encoded image
    options: RequestOptions = field(default_factory=RequestOptions)


@dataclass(frozen=True, eq=False)
class Answer:
    """Detections of one request, and their masks in the form that it asked for."""

    detections: InstanceDetections
    counts: list[bytes]  # COCO RLE counts; empty unless asked for
    dense: npt.NDArray[np.uint8] | None = None  # (n, H, W), 0 or 1; only where asked for


class ImageService:
    """Answers requests with one predictor; not for several threads at once."""

    def __init__(self, predictor: Predictor, limits: Limits | None = None) -> None:
        self._predictor, self._limits = predictor, limits or Limits()

    def answers(self, requests: Sequence[ImageRequest]) -> list[Answer | CondInstError]:
        """Answer requests that arrived together.

        Images of equal padded shape share a run of the network. An error of one request is its answer, and the
        others are not affected.

        Returns:
            One entry for each request, in order: an `Answer`, `ImageError` or `ConfigError` where the request is at
            fault, another `CondInstError` where the model is.
        """
        checked = [self._checked(request) for request in requests]
        good = [request for request in checked if isinstance(request, ImageRequest)]
        found = iter(self._detected([request.content for request in good]))
        return [self._answer(entry, next(found)) if isinstance(entry, ImageRequest) else entry for entry in checked]

    def _checked(self, request: ImageRequest) -> ImageRequest | CondInstError:
        size, limit = len(request.content), self._limits.image_bytes
        if size == 0:
            return ImageError("the image has 0 bytes; expected an encoded image (JPEG, PNG, ...)")
        if size > limit:
            return ImageError(f"the image has {size} bytes; this server takes at most {limit}")
        options, own = request.options, self._predictor.manifest.selection
        try:
            if options.classes is not None:
                labels_of(options.classes, self._predictor.class_names)
        except ConfigError as e:
            return e
        if options.score_threshold is not None and options.score_threshold < own.lowest_score:
            return ConfigError(
                f"score_threshold is {options.score_threshold}; the model was exported with"
                f" {rounded_up(own.lowest_score)}, and a request can only raise it"
            )
        if options.max_detections is not None and options.max_detections > own.max_detections:
            return ConfigError(f"max_detections is {options.max_detections}; the model's own is {own.max_detections}")
        return request

    def _detected(self, contents: list[bytes]) -> list[InstanceDetections | CondInstError]:
        images = [self._decoded(content) for content in contents]
        arrays = [image for image in images if not isinstance(image, CondInstError)]
        try:
            predictions = list(self._predictor.stream(arrays)) if len(arrays) != 1 else []
            # no detections are false, and an answer
            streamed = [p.error if p.detections is None else p.detections for p in predictions]
            found = streamed if predictions else self._predictor(arrays)
        except CondInstError as e:
            return [image if isinstance(image, CondInstError) else e for image in images]
        results = iter(found)
        return [image if isinstance(image, CondInstError) else next(results) for image in images]  # type: ignore[misc]

    def _decoded(self, content: bytes) -> npt.NDArray[np.uint8] | ImageError:
        try:
            return rgb_from_bytes(content, max_pixels=self._limits.image_pixels)
        except ImageError as e:
            return e

    def _answer(self, request: ImageRequest, found: InstanceDetections | CondInstError) -> Answer | CondInstError:
        if isinstance(found, CondInstError):
            return found
        kept = filtered(found, request.options)
        if request.options.masks == "rle":
            return Answer(kept, [rle["counts"] for rle in kept.masks.rle()])
        if request.options.masks == "none":
            return Answer(kept, [])
        size = len(kept) * kept.masks.size[0] * kept.masks.size[1]
        if size > self._limits.dense_bytes:
            return ConfigError(
                f"dense masks of {len(kept)} instances take {size} bytes; this server sends at most"
                f" {self._limits.dense_bytes}: ask for masks=rle, or lower max_detections"
            )
        return Answer(kept, [], np.asarray(kept.masks, dtype=np.uint8))


def filtered(found: InstanceDetections, options: RequestOptions) -> InstanceDetections:
    """The detections that a request wants, the same as a `Predictor` with these options gives."""
    labels = None if options.classes is None else labels_of(options.classes, found.class_names)
    kept = ResultFilter(options.score_threshold, labels, options.max_detections).kept(found.scores, found.labels)
    return found if len(kept) == len(found) else found[kept]
