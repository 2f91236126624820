"""The inference API: a model file and images in, detections out."""

from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import replace
from decimal import ROUND_CEILING, Context
from functools import partial
from importlib import import_module
from numbers import Integral
from pathlib import Path
from typing import Any, Self

from condinst_deploy.contract import InstanceDetections, ModelManifest
from condinst_deploy.errors import ArtifactError, CondInstError, ConfigError
from condinst_deploy.imaging.decode import SUFFIXES, expand_sources
from condinst_deploy.runtime.backend import Backend
from condinst_deploy.runtime.cores import usable_cores
from condinst_deploy.runtime.pipeline import Prediction, Stages, predicted, predictions
from condinst_deploy.runtime.postprocess import ResultFilter
from condinst_deploy.runtime.preprocessing.factory import InputOptions, preparation
from condinst_deploy.support.closing import Closing
from condinst_deploy.support.suggestions import did_you_mean

BACKENDS = {
    ".engine": "condinst_deploy.runtime.tensorrt.backend:TensorRtBackend",
    ".plan": "condinst_deploy.runtime.tensorrt.backend:TensorRtBackend",
    ".onnx": "condinst_deploy.runtime.onnxruntime_backend:OnnxRuntimeBackend",
    ".pth": "condinst_deploy.runtime.torch_backend:TorchBackend",
    ".pt": "condinst_deploy.runtime.torch_backend:TorchBackend",
}
"""Backend of each kind of file, imported when it is needed."""

WINDOW = 4
"""How many batches of images are held at once, so that equal shapes can be batched out of order."""


class Predictor(Closing):
    """Runs a model on images.

    >>> detections = Predictor("model.onnx")(["street.jpg", array])

    Images are batched only when their padded shapes are equal: the network's GroupNorm sees the padding,
    so an image padded for the sake of another would get slightly other results.
    """

    def __init__(
        self,
        path: str | Path,
        device: str = "auto",
        score_threshold: float | None = None,
        classes: Sequence[str | int] | str | int | None = None,
        max_detections: int | None = None,
        batch_size: int | None = None,
        inputs: InputOptions | None = None,
    ) -> None:
        """Load the model.

        Args:
            path: a checkpoint (`.pth`, `.pt`), an exported file (`.onnx`) or an engine (`.engine`).
            device: "auto", "cpu", "cuda" or "cuda:N".
            score_threshold: keep detections whose score (class probability and centerness together) is above it;
                not below the model's own (`Selection.lowest_score`).
            classes: names or labels to keep, or one; None: all.
            max_detections: keep the best so many of an image; it can only lower the model's own.
            batch_size: images per run of the network; None: 1 on a CPU, 8 on a GPU.
            inputs: how images are decoded and resized; None: as the references do it, with one thread for every
                eight cores beside a network on the CPU, and with one for each core, 16 at most, beside a GPU.

        Raises:
            ArtifactError, CheckpointError: the file cannot be used.
            BackendError: the device or a library is not there.
            ConfigError: an option does not fit the model.
        """
        self.backend = load_backend(path, device)
        try:
            result_filter = _result_filter(self.manifest, score_threshold, classes, max_detections)
            self._stages = _stages(self.backend, batch_size, result_filter, inputs or InputOptions())
        except CondInstError:
            self.backend.close()
            raise

    @classmethod
    def of(cls, backend: Backend, batch_size: int | None = None) -> Self:
        """A predictor around a backend that is loaded already, without filters."""
        predictor = cls.__new__(cls)
        predictor.backend = backend
        predictor._stages = _stages(backend, batch_size, ResultFilter(), InputOptions())
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
    def batch_size(self) -> int:
        """How many images of equal padded shape the network takes at once."""
        return self._stages.batch_size

    @property
    def window(self) -> int:
        """How many images `stream` forms batches among; what it finds in them does not depend on the others."""
        return self._stages.window

    @property
    def max_in_flight(self) -> int:
        """How many images `stream` takes before the first result is there, and holds at a time, at most."""
        return self._stages.max_in_flight

    def __call__(self, images: Any) -> list[InstanceDetections]:
        """Detect instances.

        Args:
            images: one or a list of: path, folder, glob pattern, RGB `uint8 (H, W, 3)` array, PIL image,
                `uint8 (3, H, W)` tensor. An empty list is fine.

        Returns:
            One `InstanceDetections` an image, in order.

        Raises:
            ImageError: an image cannot be read (`stream` goes on with the others).
        """
        sources = expand_sources(images)
        if len(sources) == 1:
            return [_detections(predicted(self._stages, sources[0]))]
        with closing(self.stream(sources)) as found:
            return [_detections(prediction) for prediction in found]

    def stream(self, images: Iterable[Any] | str | Path) -> Generator[Prediction, None, None]:
        """Detect instances in images as they come; order is kept, and memory is bounded.

        Decoding, network and postprocessing run at the same time, in threads that start with the first result. They
        end with the generator: when it is exhausted, closed (`contextlib.closing`) or left by an exception. At most
        `max_in_flight` images are held. The iterable is only used in the caller's thread. A result waits until its
        batch is full, its `window` ends or the iterable ends. With `batch_size` 1 that is one more image of a slow
        source; with more, up to a window and one, because images of other padded shapes come between.

        An image that cannot be read yields a `Prediction` with its error, and the others go on. What is wrong with
        the model or the iterable is raised, after the results before it.

        Args:
            images: an iterable of images, each standing for itself; or one path, folder or pattern.
        """
        if isinstance(images, str | Path):
            images = expand_sources(images)
        if hasattr(images, "shape"):  # an array or a tensor would be taken apart row by row
            raise ConfigError("stream was given one image; expected a list or another iterable of images")
        if not isinstance(images, Iterable):
            raise ConfigError(f"stream was given {images!r:.60}; expected images to iterate over, or a path")
        yield from predictions(replace(self._stages, enter_thread=_same_gpu(self.backend.device)), images)

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
        what = "an image by its name" if path.suffix.lower() in SUFFIXES else "of an unknown kind"
        raise ArtifactError(f"{path} is {what}; expected a model, a file ending in {', '.join(BACKENDS)}")
    module, name = home.split(":")
    load: Callable[[Path, str], Backend] = getattr(import_module(module), name).load
    return load(path, device)


def _detections(prediction: Prediction) -> InstanceDetections:
    if prediction.detections is None:
        assert prediction.error is not None
        raise prediction.error
    return prediction.detections


def _stages(backend: Backend, batch_size: int | None, result_filter: ResultFilter, inputs: InputOptions) -> Stages:
    size = _batch_size(backend, batch_size)
    static = backend.manifest.static_shape

    # looked up when they are called: who wraps a backend's method for a measurement sees every call
    return Stages(
        prepare=preparation(inputs.pixels, backend.geometry, backend.device),
        infer=lambda arrays: backend.infer(arrays),
        finish=lambda outputs, geometries: backend.postprocess(outputs, geometries, result_filter),
        batch_size=size,
        window=size if size == 1 else size * WINDOW,
        static_batch=static[0] if static else None,
        workers=inputs.workers or _workers(backend.device),
    )


def _same_gpu(device: str) -> Callable[[], None] | None:
    """What makes another thread's current GPU that of this one; CUDA keeps one for each thread."""
    if not device.startswith("cuda"):
        return None
    import torch

    return partial(torch.cuda.set_device, torch.cuda.current_device())


def _workers(device: str) -> int:
    """Threads that prepare images: some 40 a second each, which a network on the same cores does not need."""
    cores = usable_cores()
    return min(cores, 16) if device.startswith("cuda") else max(1, cores // 8)


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
