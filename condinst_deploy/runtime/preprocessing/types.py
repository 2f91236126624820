"""Types of the preprocessing stage."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, get_args

from condinst_deploy.contract import ImageGeometry, NetworkInputs
from condinst_deploy.errors import ConfigError
from condinst_deploy.imaging.decode import RGBArray
from condinst_deploy.support.option_types import check_types
from condinst_deploy.support.validation import Limits, check_given

if TYPE_CHECKING:  # it imports PyTorch, and arguments are checked before PyTorch is imported
    from torch import Tensor


MOST_WORKERS = 1024
"""Threads that prepare images: each holds an image."""


class Inputs(Protocol):
    """Input of the network, one image or more: arrays on the host, or memory that only its backend knows."""

    def on_host(self) -> NetworkInputs:
        """Return finished arrays; the caller waits."""


Pixels = Literal["exact", "fast", "cuda"]
"""Decoding and resizing of images: on the CPU like the references, on the CPU by PyTorch, or on a GPU."""


@dataclass(frozen=True)
class InputOptions:
    """Options for turning images into the network's input."""

    pixels: Pixels = "exact"
    workers: int | None = None  # threads that decode and resize; None: see `PredictorOptions.inputs`
    keep_images: bool = True  # whether `Prediction.image` holds the decoded image; without, less memory is held

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ConfigError: a value is not allowed.
        """
        check_types(self)
        if self.pixels not in get_args(Pixels):
            raise ConfigError(f"pixels is {self.pixels!r}; expected one of {', '.join(get_args(Pixels))}")
        check_given(self, workers=Limits(1, MOST_WORKERS, whole=True))


class Prepared(NamedTuple):
    """An image that is ready for the network."""

    image: RGBArray | None  # (H, W, 3) uint8, upright; None: it is not asked for
    geometry: ImageGeometry
    inputs: Inputs  # a batch of this image alone, in the backend's memory


class InputWriter(Protocol):
    """Writes resized images into the memory that a backend reads its input from.

    The input of one image is `(1, 3, H, W)` uint8 with the padded size of the geometry: the image, and zeros around it.
    Threads may call a writer at the same time.
    """

    def from_image(self, image: RGBArray, geometry: ImageGeometry) -> Inputs:
        """Resize `(H, W, 3)` uint8 from the host to Pillow's bytes, and write it.

        A writer for a GPU may leave the resizing to the GPU: `Backend.collate` then writes into the batch.
        """

    def from_tensor(self, resized: "Tensor", geometry: ImageGeometry) -> Inputs:
        """Write `(3, h, w)` uint8 from any device. A tensor on the backend's GPU does not cross to the host."""


GeometryOf = Callable[[RGBArray], ImageGeometry]
"""`Backend.geometry` of a model."""

Prepare = Callable[[Any, str], Prepared]
"""(image of any kind, its name) -> prepared image. Raises `ImageError`. Threads may call it at the same time."""
