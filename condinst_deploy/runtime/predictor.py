"""The inference API: a model file and images in, detections out."""

from collections.abc import Callable, Generator, Iterable
from contextlib import AbstractContextManager, closing
from dataclasses import fields, replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn, Unpack

from condinst_deploy.contract import InstanceDetections, ModelManifest
from condinst_deploy.contract.artifacts import CHECKPOINT, ENGINE, ONNX, model_kind
from condinst_deploy.contract.precision import Precision
from condinst_deploy.errors import BackendError, CondInstError, ConfigError
from condinst_deploy.imaging.image_files import expand_sources
from condinst_deploy.runtime.backend import Backend
from condinst_deploy.runtime.canvases import geometry_for
from condinst_deploy.runtime.cores import CpuThreads
from condinst_deploy.runtime.held_images import MOST_HELD
from condinst_deploy.runtime.pipeline import Prediction, Stages, predicted, predictions
from condinst_deploy.runtime.predictor_options import (
    PredictorKeywords,
    PredictorOptions,
    batch_size_for,
    batching_for,
    finishing_threads,
    preparing_threads,
    result_filter_for,
)
from condinst_deploy.runtime.preprocessing.factory import preparation
from condinst_deploy.support.extras import missing_library
from condinst_deploy.support.option_types import check_type, checked_arguments
from condinst_deploy.support.suggestions import did_you_mean

BACKENDS = {
    CHECKPOINT: "condinst_deploy.runtime.torch_backend:TorchBackend",
    ONNX: "condinst_deploy.runtime.onnxruntime_backend:OnnxRuntimeBackend",
    ENGINE: "condinst_deploy.runtime.tensorrt.backend:TensorRtBackend",
}
"""Kind of model file -> its backend, imported when it is needed."""


class Predictor(AbstractContextManager["Predictor"]):
    """Runs a model on images. Close it, or use it in a `with` block.

    >>> detections = Predictor("model.onnx")(["street.jpg", array])

    Images share a batch only if their padded shapes are equal: the network's GroupNorm sees the padding, so more
    padding would change an image's results slightly.

    Attributes:
        backend: the loaded model.
        stages: the functions that run on each image and batch; benchmarks run them one by one.
    """

    def __init__(
        self,
        model: str | Path | Backend,
        options: PredictorOptions | None = None,
        **changes: Unpack[PredictorKeywords],
    ) -> None:
        """Load the model.

        Args:
            model: a checkpoint (`.pth`, `.pt`), an exported file (`.onnx`), an engine (`.engine`), or a backend that
                is loaded already. `close` closes the backend, too.
            options: see `PredictorOptions`; None: the defaults.
            changes: fields of `PredictorOptions` that replace those of `options`.

        Raises:
            ArtifactError, CheckpointError: the file cannot be used.
            BackendError: the device or a library is missing.
            ConfigError: an option does not fit the model.
        """
        if options is not None and not isinstance(options, PredictorOptions):
            raise ConfigError(f"options is {options!r:.60}; expected PredictorOptions or keywords, as device='cpu'")
        known = [field.name for field in fields(PredictorOptions)]
        if unknown := [name for name in changes if name not in known]:
            similar = did_you_mean(unknown[0], known)
            raise ConfigError(f"Predictor has no option {unknown[0]!r}; expected one of {', '.join(known)}{similar}")
        options = replace(options or PredictorOptions(), **changes)
        check_type("model", model, str | Path | Backend)
        loaded = isinstance(model, Backend)
        self.backend = _checked(model, options) if isinstance(model, Backend) else _loaded(model, options)
        try:
            self.stages = stages_of(self.backend, options)
        except CondInstError:
            if not loaded:
                self.backend.close()
            raise

    @property
    def manifest(self) -> ModelManifest:
        """The manifest of the model's file."""
        return self.backend.manifest

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the model's classes, by label."""
        return self.manifest.class_names

    @property
    def batch_size(self) -> int:
        """The number of images in a full batch."""
        return self.stages.batch_size

    @property
    def window(self) -> int:
        """The number of images of which `stream` makes batches. Their results do not depend on other images."""
        return self.stages.window

    @property
    def max_in_flight(self) -> int:
        """The most images that `stream` takes before the first result is ready, and holds at a time."""
        return self.stages.max_in_flight

    def __call__(self, images: Any) -> list[InstanceDetections]:
        """Detect instances.

        Args:
            images: one or a list of: path, folder, glob pattern, URL of these, RGB `uint8 (H, W, 3)` array, PIL image,
                `uint8 (3, H, W)` tensor. An empty list is fine.

        Returns:
            One `InstanceDetections` an image, in order.

        Raises:
            ImageError: an image cannot be read (`stream` goes on with the others).
        """
        self.backend.check_process()
        sources = expand_sources(images)
        if len(sources) == 1:
            return [_detections(predicted(self.stages, sources)[0])]
        with closing(self.stream(sources)) as found:
            return [_detections(prediction) for prediction in found]

    def stream(self, images: Iterable[Any] | str | Path) -> Generator[Prediction, None, None]:
        """Detect instances in a stream of images. Order is kept, and memory is bounded.

        Decoding, network and postprocessing run in parallel, in threads that start with the first result. The threads
        end with the generator: when it is exhausted, closed (`contextlib.closing`) or left by an exception. At most
        `max_in_flight` images are held, and fewer if they are large: 2 GiB of decoded images, and those that are being
        decoded. The iterable is only used in the caller's thread. A result waits until its batch is full, its wait ends
        (`PredictorOptions.window_batches`) or the iterable ends. With `batch_size` 1 it waits for one more image of a
        slow source; with larger batches for up to `max_in_flight` images, because images of other padded shapes may
        come between.

        An image that cannot be read yields a `Prediction` with its error, and the stream continues. An error of the
        model or of the iterable is raised after the results before it.

        Args:
            images: an iterable of single images; or one path, folder or pattern.
        """
        self.backend.check_process()
        if isinstance(images, str | Path):
            images = expand_sources(images)
        if hasattr(images, "shape"):  # iterating over an array would give its rows
            raise ConfigError("stream was given one image; expected a list or another iterable of images")
        if not isinstance(images, Iterable):
            raise ConfigError(f"stream was given {images!r:.60}; expected images to iterate over, or a path")
        yield from predictions(replace(self.stages, enter_thread=self.backend.thread_initializer()), images)

    def __reduce__(self) -> NoReturn:
        raise ConfigError(
            "a Predictor cannot be pickled or copied, because it holds a loaded model; pass the path of the model's"
            " file to the other process, and make a Predictor there"
        )

    def close(self) -> None:
        """Release the model."""
        self.backend.close()

    def __exit__(self, *_: object) -> None:
        self.close()


@checked_arguments
def load_backend(
    path: str | Path,
    device: str = "auto",
    threads: CpuThreads | None = None,
    precision: Precision | None = None,
    *,
    score_threshold: float | None = None,
    max_detections: int | None = None,
) -> Backend:
    """Load a model file with the backend of its kind.

    Args:
        path: a checkpoint, an exported file or an engine.
        device: "auto", "cpu", "cuda" or "cuda:N".
        threads: of the network, for exported files.
        precision: of a checkpoint's network.
        score_threshold: replaces a checkpoint's own where it is lower; other files have a fixed one.
        max_detections: replaces a checkpoint's own where it is higher; other files have a fixed one.

    Raises:
        BackendError: a library or the device is missing.
        ConfigError: the kind of file is unknown, threads are given for a file that is not an exported one, or a
            precision for one that is no checkpoint.
    """
    path = Path(path)
    kind = model_kind(path)
    if threads is not None and kind != ONNX:
        raise ConfigError(
            f"threads is given for {path}; only .onnx models take it. Use torch.set_num_threads for a checkpoint"
        )
    if precision is not None and kind != CHECKPOINT:
        raise ConfigError(
            f"precision is given for {path}; only checkpoints take it. An engine has the precision that it was built"
            " with, and an exported file that of the export"
        )
    module, name = BACKENDS[kind].split(":")
    try:
        load: Callable[..., Backend] = getattr(import_module(module), name).load
    except ModuleNotFoundError as e:
        raise BackendError(f"{path}: {missing_library(e) or e}") from e
    given: dict[str, Any] = {"threads": threads, "precision": precision}
    if kind == CHECKPOINT:
        given |= {"score_threshold": score_threshold, "max_detections": max_detections}
    return load(path, device, **{name: value for name, value in given.items() if value is not None})


def stages_of(backend: Backend, options: PredictorOptions) -> Stages:
    """Put the stages of a backend together.

    Raises:
        BackendError: the options need a GPU that is missing.
        ConfigError: an option does not fit the model.
    """
    inputs = options.inputs
    size = batch_size_for(backend, options.batch_size)
    limits = batching_for(backend.device, size, options.window_batches)
    geometry_of = geometry_for(backend, options.canvases)
    return Stages(
        prepare=preparation(
            inputs.pixels, geometry_of, backend.input_writer, backend.device, options.observer, inputs.keep_images
        ),
        collate=backend.collate,
        forward=backend.forward,
        postprocess=partial(backend.postprocess, result_filter=result_filter_for(backend.manifest, options)),
        batch_size=size,
        window=limits.section,
        most_waiting=limits.most_waiting,
        longest_wait=limits.longest_wait,
        most_bytes=MOST_HELD,
        workers=inputs.workers or preparing_threads(backend.device, inputs.pixels),
        finishers=finishing_threads(backend.device),
        observer=options.observer,
    )


def _loaded(path: str | Path, options: PredictorOptions) -> Backend:
    return load_backend(
        path,
        options.device,
        options.threads,
        options.precision,
        score_threshold=options.score_threshold,
        max_detections=options.max_detections,
    )


def _checked(backend: Backend, options: PredictorOptions) -> Backend:
    """Refuse options of loading for a backend that is loaded already."""
    asked = "cuda:0" if options.device == "cuda" else options.device
    if asked not in ("auto", backend.device) or options.threads is not None or options.precision is not None:
        raise ConfigError(
            f"device is {options.device!r}, threads is {options.threads} and precision is {options.precision} for a"
            f" backend that is loaded on {backend.device}; give these options where it is loaded"
        )
    return backend


def _detections(prediction: Prediction) -> InstanceDetections:
    if prediction.detections is None:
        assert prediction.error is not None
        raise prediction.error
    return prediction.detections
