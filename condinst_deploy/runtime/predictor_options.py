"""Options of `Predictor`, and how they go together with a model."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from decimal import ROUND_CEILING, Context
from numbers import Integral
from typing import TypedDict

from condinst_deploy.contract import ModelManifest
from condinst_deploy.contract.manifest import label_of
from condinst_deploy.contract.model_settings import DETECTIONS, SHARE
from condinst_deploy.contract.precision import PRECISIONS, Precision
from condinst_deploy.errors import ConfigError
from condinst_deploy.runtime.backend import Backend
from condinst_deploy.runtime.batching import BatchingLimits
from condinst_deploy.runtime.cores import CpuThreads, usable_cores
from condinst_deploy.runtime.devices import check_device
from condinst_deploy.runtime.observer import Observer
from condinst_deploy.runtime.postprocess import ResultFilter
from condinst_deploy.runtime.preprocessing.types import InputOptions, Pixels
from condinst_deploy.shown_text import shown_value
from condinst_deploy.support.option_types import check_types
from condinst_deploy.support.validation import check_given

Classes = Collection[str | int] | str | int

WINDOW_BATCHES = 4

MOST_IN_BATCH, MOST_IN_WINDOW = 1024, 1024
"""Images of a batch, and batches of a window: what waits in a stream is held in memory."""

MOST_WAITING = 64
"""Images that wait for others of their padded shape on a GPU, at a time."""

LONGEST_WAIT = 320
"""Images that may follow an image before its partial batch runs, on a GPU."""

MOST_FINISHERS = 3
"""Threads that make detections beside a network on a GPU, which is faster than one of them."""

MOST_PREPARING = 16
"""Threads that prepare images beside a GPU."""

SECTION = 2048
"""Images on a GPU after which all partial batches run."""


@dataclass(frozen=True)
class PredictorOptions:
    """Options for loading and running a model.

    Attributes:
        device: "auto", "cpu", "cuda" or "cuda:N". A backend that is loaded already has its device; leave "auto" then.
        score_threshold: keep detections whose score (class probability and centerness together) is above it; of
            exported files and engines not below their own threshold (`Selection.lowest_score`). None: the model's own.
        classes: names or labels to keep, or a single one; None: all.
        max_detections: keep this number of the best detections of an image; of exported files and engines it can
            only lower their own limit. None: the model's own.
        batch_size: images in a batch of the network, at most 1,024; None: 1 on a CPU, 8 on a GPU.
        inputs: how images are decoded and resized. By default as the references do it, with one thread for every
            eight cores beside a network on a CPU, and one thread for each core, 16 at most, beside a GPU.
        threads: threads of the network on a CPU, for `.onnx` files; None: one for each physical core. A backend that
            is loaded already has its threads.
        window_batches: `stream` makes batches of equal padded shape among this many batches of images. A larger window
            finds more full batches of images of many sizes; a result waits longer, and more images are held. With a
            batch size of 1 the window is one image. None: 4 on a CPU. On a GPU then at most 64 images wait for others
            of their shape, none of them for more than 320 further images, and batches are complete after every 2,048.
        observer: called for each stage of each image or batch; None: no cost. See `condinst_deploy.runtime.observer`.
        canvases: padded sizes (height, width) to which images are padded, each to the smallest that holds it; an image
            that none holds keeps its own. Fewer padded shapes make fuller batches, and fewer shapes to capture.
            GroupNorm sees the padding, so results change a little (docs/performance.md). None: to multiples of 32.
        precision: of a checkpoint's network: "float32", "float16" or "bfloat16"; None: float32. Exported files and
            engines have their own, and a backend that is loaded already, too.
    """

    device: str = "auto"
    score_threshold: float | None = None
    classes: Classes | None = None
    max_detections: int | None = None
    batch_size: int | None = None
    inputs: InputOptions = field(default_factory=InputOptions)
    threads: CpuThreads | None = None
    window_batches: int | None = None
    observer: Observer | None = None
    precision: Precision | None = None
    canvases: Sequence[tuple[int, int]] | None = None

    def __post_init__(self) -> None:
        """Check what does not depend on the model.

        Raises:
            ConfigError: a value has a wrong type or is not allowed.
        """
        check_types(self)
        check_device(self.device)
        for name, value, most in (
            ("batch_size", self.batch_size, MOST_IN_BATCH),
            ("window_batches", self.window_batches, MOST_IN_WINDOW),
        ):
            if value is not None and not 1 <= value <= most:
                limit = "at least 1" if value < 1 else f"at most {most}"
                raise ConfigError(f"{name} is {shown_value(value)}; expected {limit}")
        check_given(self, score_threshold=SHARE, max_detections=DETECTIONS)
        if self.precision is not None and self.precision not in PRECISIONS:
            raise ConfigError(f"precision is {shown_value(self.precision)}; expected one of {', '.join(PRECISIONS)}")


class PredictorKeywords(TypedDict, total=False):
    """The fields of `PredictorOptions`, as keyword arguments of `Predictor`."""

    device: str
    score_threshold: float | None
    classes: Classes | None
    max_detections: int | None
    batch_size: int | None
    inputs: InputOptions
    threads: CpuThreads | None
    window_batches: int | None
    observer: Observer | None
    precision: Precision | None
    canvases: Sequence[tuple[int, int]] | None


def batch_size_for(backend: Backend, asked: int | None) -> int:
    """Return the batch size of a predictor.

    Raises:
        ConfigError: the model takes fewer images.
    """
    static, largest = backend.static_batch, backend.largest_batch
    if static is not None:
        if asked is not None and asked > static:
            raise ConfigError(f"batch_size is {asked}; the model was exported for {static} at a time")
        return asked or static
    if largest is not None and asked is not None and asked > largest:
        raise ConfigError(f"batch_size is {asked}; the engine was built for at most {largest} at a time")
    usual = 8 if backend.device.startswith("cuda") else 1
    return asked or min(usual, largest or usual)


def batching_for(device: str, batch_size: int, window_batches: int | None) -> BatchingLimits:
    """Return the limits of a stream's batches; see `PredictorOptions.window_batches`."""
    if batch_size == 1:
        return BatchingLimits(1, 1)
    if window_batches is None and device.startswith("cuda"):
        return BatchingLimits(batch_size, SECTION, max(MOST_WAITING, batch_size), max(LONGEST_WAIT, batch_size))
    return BatchingLimits(batch_size, batch_size * (window_batches or WINDOW_BATCHES))


def finishing_threads(device: str) -> int:
    """Return the number of threads that make detections of the network's outputs."""
    return min(MOST_FINISHERS, usable_cores()) if device.startswith("cuda") else 1


def preparing_threads(device: str, pixels: Pixels = "exact") -> int:
    """Return the number of threads that prepare images.

    A thread prepares about 40 images a second. A network on the same cores is far slower, and needs the cores. Threads
    whose images are decoded on a GPU wait for it together, so that there may be more of them than cores.
    """
    cores = usable_cores()
    if pixels == "cuda":
        return MOST_PREPARING
    return min(cores, MOST_PREPARING) if device.startswith("cuda") else max(1, cores // 8)


def result_filter_for(manifest: ModelManifest, options: PredictorOptions) -> ResultFilter:
    """Return the filter of a model's detections.

    Raises:
        ConfigError: a threshold, a class or a limit does not fit the model.
    """
    own, score_threshold, max_detections = manifest.selection, options.score_threshold, options.max_detections
    if score_threshold is not None and score_threshold < own.lowest_score:
        raise ConfigError(
            f"score_threshold is {shown_value(score_threshold)}; the model was made with"
            f" {rounded_up(own.lowest_score)} and can only be raised from there."
            " Export it again with --score-threshold for a lower one, or give the checkpoint"
        )
    if max_detections is not None and max_detections > own.max_detections:
        raise ConfigError(
            f"max_detections is {shown_value(max_detections)}; the model was made for {own.max_detections} at most."
            " Export it again with --max-detections for more, or give the checkpoint"
        )
    classes = options.classes
    wanted = [classes] if isinstance(classes, str | int | Integral) else classes
    labels = None if wanted is None else frozenset(_label(manifest.class_names, c) for c in wanted)
    return ResultFilter(score_threshold, labels, max_detections)


def rounded_up(value: float) -> str:
    """Return four digits of a limit, rounded up, so that the printed value is allowed."""
    return f"{Context(prec=4, rounding=ROUND_CEILING).create_decimal(repr(value)).normalize():f}"


def _label(names: Sequence[str], wanted: str | int) -> int:
    if isinstance(wanted, Integral) and not isinstance(wanted, bool) and 0 <= wanted < len(names):
        return int(wanted)
    return label_of(names, wanted)
