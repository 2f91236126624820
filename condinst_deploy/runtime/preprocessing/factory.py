"""One image of any kind -> the network's input, in one of three ways that differ in speed and in the last digit."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

from condinst_deploy.contract import ImageGeometry, NetworkInputs
from condinst_deploy.errors import ConfigError
from condinst_deploy.imaging.decode import RGBArray, rgb_from
from condinst_deploy.runtime.preprocessing.batch import network_inputs

Pixels = Literal["exact", "fast", "cuda"]
"""Where an image is decoded and resized: on the CPU as the references do it, on the CPU by PyTorch, on a GPU.

From a GPU the resized image comes back to the host, where batches are formed, and goes up again with its batch.
"""


@dataclass(frozen=True)
class InputOptions:
    """How images become the network's input."""

    pixels: Pixels = "exact"
    workers: int | None = None  # threads that decode and resize; None: see `Predictor`

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ConfigError: a value is not one of those that there are.
        """
        if self.pixels not in get_args(Pixels):
            raise ConfigError(f"pixels is {self.pixels!r}; expected one of {', '.join(get_args(Pixels))}")
        if self.workers is not None and self.workers < 1:
            raise ConfigError(f"workers is {self.workers}; expected at least 1")


class Prepared(NamedTuple):
    """An image that is ready for the network."""

    image: RGBArray  # (H, W, 3) uint8, upright
    geometry: ImageGeometry
    inputs: NetworkInputs  # of this image alone


GeometryOf = Callable[[RGBArray], ImageGeometry]
Prepare = Callable[[Any], Prepared]
"""Image of any kind -> what the network takes; raises `ImageError`; threads may call it at once."""


def preparation(pixels: Pixels, geometry_of: GeometryOf, device: str) -> Prepare:
    """The function that prepares images in the way asked for.

    Args:
        pixels: the way.
        geometry_of: `Backend.geometry` of the model.
        device: the model's; `pixels="cuda"` uses it where it is a GPU.

    Raises:
        BackendError: a GPU was asked for and is not there.
    """
    if pixels == "exact":
        return lambda source: prepared_exactly(source, geometry_of)
    # imported here: what is exact does without PyTorch
    from condinst_deploy.runtime.preprocessing.tensor import TensorPreparation, gpu_beside

    return TensorPreparation(geometry_of, gpu_beside(device) if pixels == "cuda" else "cpu")


def prepared_exactly(source: Any, geometry_of: GeometryOf) -> Prepared:
    """The pixels that the references feed their networks: libjpeg-turbo's, resized by Pillow."""
    image = rgb_from(source)
    geometry = geometry_of(image)
    return Prepared(image, geometry, network_inputs([image], [geometry]))
