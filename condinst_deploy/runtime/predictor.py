"""The inference API: a model file and pictures in, detections out."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from decimal import ROUND_CEILING, Context
from importlib import import_module
from itertools import islice
from numbers import Integral
from pathlib import Path
from typing import Any, Self

from condinst_deploy.closing import Closing
from condinst_deploy.contract import InstanceDetections, ModelManifest
from condinst_deploy.errors import ArtifactError, ConfigError, ImageError
from condinst_deploy.runtime.backend import Backend
from condinst_deploy.runtime.images import RGBArray, expand_sources, rgb_from, source_name
from condinst_deploy.runtime.postprocess import ResultFilter
from condinst_deploy.spelling import did_you_mean

BACKENDS = {
    ".engine": "condinst_deploy.runtime.tensorrt_backend:TensorRtBackend",
    ".plan": "condinst_deploy.runtime.tensorrt_backend:TensorRtBackend",
    ".onnx": "condinst_deploy.runtime.onnxruntime_backend:OnnxRuntimeBackend",
    ".pth": "condinst_deploy.runtime.torch_backend:TorchBackend",
    ".pt": "condinst_deploy.runtime.torch_backend:TorchBackend",
}
"""Backend of each kind of file, imported when it is needed."""

WINDOW = 4
"""How many batches of pictures are held at once, so that equal shapes can be batched out of order."""


@dataclass(frozen=True, eq=False)
class Prediction:
    """What became of one picture: its detections, or the error that kept it from having any."""

    name: str  # path, or place in the list
    image: RGBArray | None  # (H, W, 3) uint8, upright
    detections: InstanceDetections | None
    error: ImageError | None = None


class Predictor(Closing):
    """Runs a model on pictures.

    >>> detections = Predictor("model.onnx")(["street.jpg", array])

    Pictures are batched only when their padded shapes are equal: the network's GroupNorm sees the padding,
    so a picture padded for the sake of another would get slightly other results.
    """

    def __init__(
        self,
        path: str | Path,
        device: str = "auto",
        score_threshold: float | None = None,
        classes: Sequence[str | int] | str | int | None = None,
        max_detections: int | None = None,
        batch_size: int | None = None,
    ) -> None:
        """Load the model.

        Args:
            path: a checkpoint (`.pth`, `.pt`), an exported file (`.onnx`) or an engine (`.engine`).
            device: "auto", "cpu", "cuda" or "cuda:N".
            score_threshold: keep detections whose score (class probability and centerness together) is above it;
                not below the model's own (`Selection.lowest_score`).
            classes: names or labels to keep, or one; None: all.
            max_detections: keep the best so many of a picture; it can only lower the model's own.
            batch_size: pictures per run of the network; None: 1 on a CPU, 8 on a GPU.

        Raises:
            ArtifactError, CheckpointError: the file cannot be used.
            BackendError: the device or a library is not there.
            ConfigError: an option does not fit the model.
        """
        self.backend = load_backend(path, device)
        try:
            self._filter = _result_filter(self.manifest, score_threshold, classes, max_detections)
            self.batch_size = _batch_size(self.backend, batch_size)
        except ConfigError:
            self.backend.close()
            raise

    @classmethod
    def of(cls, backend: Backend, batch_size: int | None = None) -> Self:
        """A predictor around a backend that is loaded already, without filters."""
        predictor = cls.__new__(cls)
        predictor.backend = backend
        predictor._filter = ResultFilter()
        predictor.batch_size = _batch_size(backend, batch_size)
        return predictor

    @property
    def manifest(self) -> ModelManifest:
        """What the model's file says of itself."""
        return self.backend.manifest

    @property
    def class_names(self) -> tuple[str, ...]:
        """The model's classes, by label."""
        return self.manifest.class_names

    @property
    def window(self) -> int:
        """How many pictures `stream` takes up together; what it finds in them does not depend on the others."""
        return self.batch_size if self.batch_size == 1 else self.batch_size * WINDOW

    def __call__(self, images: Any) -> list[InstanceDetections]:
        """Detect instances.

        Args:
            images: one or a list of: path, folder, glob pattern, RGB `uint8 (H, W, 3)` array, PIL image,
                `uint8 (3, H, W)` tensor. An empty list is fine.

        Returns:
            One `InstanceDetections` a picture, in order.

        Raises:
            ImageError: a picture cannot be read (`stream` goes on with the others).
        """
        results = []
        for prediction in self.stream(expand_sources(images)):
            if prediction.detections is None:
                assert prediction.error is not None
                raise prediction.error
            results.append(prediction.detections)
        return results

    def stream(self, images: Iterable[Any] | str | Path) -> Iterator[Prediction]:
        """Detect instances in pictures as they come; order is kept, and memory is bounded.

        A picture that cannot be read yields a `Prediction` with its error, and the others go on.

        Args:
            images: an iterable of pictures, each standing for itself; or one path, folder or pattern.
        """
        if isinstance(images, str | Path):
            images = expand_sources(images)
        if hasattr(images, "shape"):  # an array or a tensor would be taken apart row by row
            raise ConfigError("stream was given one picture; expected a list or another iterable of pictures")
        numbered = iter(enumerate(images))
        while batch := list(islice(numbered, self.window)):
            yield from self._predict([_decoded(source, i) for i, source in batch])

    def _predict(self, decoded: list[Prediction]) -> list[Prediction]:
        """Run the pictures of one window, equal padded shapes together; the order stays."""
        groups: dict[tuple[int, int], list[int]] = {}
        for i, picture in enumerate(decoded):
            if picture.image is not None:
                groups.setdefault(self.backend.geometry(picture.image).padded, []).append(i)
        results = list(decoded)
        for members in groups.values():
            for start in range(0, len(members), self.batch_size):
                batch = members[start : start + self.batch_size]
                for i, detections in zip(batch, self._run([decoded[i].image for i in batch]), strict=True):
                    results[i] = Prediction(decoded[i].name, decoded[i].image, detections)
        return results

    def _run(self, images: Sequence[RGBArray | None]) -> list[InstanceDetections]:
        inputs, geometries = self.backend.preprocess([image for image in images if image is not None])
        return self.backend.postprocess(self.backend.infer(inputs), geometries, self._filter)

    def close(self) -> None:
        """Release the model."""
        self.backend.close()


def load_backend(path: str | Path, device: str = "auto") -> Backend:
    """Load a model file with the backend of its kind.

    Raises:
        ArtifactError: the kind of file is unknown.
    """
    path = Path(path)
    home = BACKENDS.get(path.suffix.lower())
    if home is None:
        raise ArtifactError(f"{path} is of an unknown kind; expected a file ending in {', '.join(BACKENDS)}")
    module, name = home.split(":")
    load: Callable[[Path, str], Backend] = getattr(import_module(module), name).load
    return load(path, device)


def _decoded(source: Any, position: int) -> Prediction:
    name = source_name(source, position)
    try:
        return Prediction(name, rgb_from(source), None)
    except ImageError as e:
        return Prediction(name, None, None, e)


def _batch_size(backend: Backend, asked: int | None) -> int:
    static = backend.manifest.static_shape
    if asked is not None and asked < 1:
        raise ConfigError(f"batch_size is {asked}; expected at least 1")
    if static is not None:
        if asked is not None and asked > static[0]:
            raise ConfigError(f"batch_size is {asked}; the model was exported for {static[0]} at a time")
        return asked or static[0]
    largest = backend.largest_batch
    if largest is not None and asked is not None and asked > largest:
        raise ConfigError(f"batch_size is {asked}; the engine was built for at most {largest} at a time")
    usual = 8 if backend.device.startswith("cuda") else 1
    return asked or min(usual, largest or usual)


def _result_filter(
    manifest: ModelManifest,
    score_threshold: float | None,
    classes: Sequence[str | int] | str | int | None,
    max_detections: int | None,
) -> ResultFilter:
    own = manifest.selection
    if score_threshold is not None and not own.lowest_score <= score_threshold <= 1:
        raise ConfigError(
            f"score_threshold is {score_threshold}; the model was made with {_rounded_up(own.lowest_score)} and can"
            " only be raised from there, up to 1. Export it again with --score-threshold for a lower one"
        )
    if max_detections is not None and not 1 <= max_detections <= own.max_detections:
        raise ConfigError(
            f"max_detections is {max_detections}; expected 1 to {own.max_detections}, the model's own."
            " Export it again with --max-detections for more"
        )
    wanted = [classes] if isinstance(classes, str | int | Integral) else classes
    labels = None if wanted is None else frozenset(_label(manifest.class_names, c) for c in wanted)
    return ResultFilter(score_threshold, labels, max_detections)


def _rounded_up(value: float) -> str:
    """Four digits of a limit, never below it: who types them in is not refused again."""
    return f"{Context(prec=4, rounding=ROUND_CEILING).create_decimal(repr(value)).normalize():f}"


def _label(names: Sequence[str], wanted: str | int) -> int:
    if isinstance(wanted, Integral) and not isinstance(wanted, bool) and 0 <= wanted < len(names):
        return int(wanted)
    if wanted in names:
        return names.index(str(wanted))
    raise ConfigError(
        f"the model has no class {wanted!r}; its classes are {', '.join(names)}{did_you_mean(wanted, names)}"
    )
