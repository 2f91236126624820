"""Settings of a benchmark: what is measured, and how often."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass

from condinst_deploy.contract.precision import Precision
from condinst_deploy.errors import ConfigError
from condinst_deploy.imaging.image_sizes import LONGEST_SIDE, MOST_PIXELS
from condinst_deploy.runtime.devices import check_device
from condinst_deploy.runtime.preprocessing.types import InputOptions, Pixels
from condinst_deploy.shown_text import shown, shown_value
from condinst_deploy.support.option_types import check_types

SETTLE = 0.02
"""Seconds between the turns of two models, until the threads of one have stopped spinning and sleep."""


MOST_AT_ONCE = 1024
"""Most images of a batch, and most threads that ask at once."""

LARGEST = 2**31 - 1
"""Largest number of calls, and largest seed."""


@dataclass(frozen=True)
class Settings:
    """Options of a benchmark; its results contain all of them."""

    device: str = "auto"
    batches: tuple[int, ...] = (1,)  # images a run of the network
    concurrency: tuple[int, ...] = (1,)  # threads that share one predictor
    repeat: int = 20  # timed calls of each setting
    warmup: int = 3  # untimed calls before them, or two of every padded shape where these are more
    cores: tuple[int, ...] = ()  # processor cores that a model's process may use; (): all that this one may
    size: tuple[int, int] = (800, 1333)  # height and width of generated images
    seed: int = 0  # of generated images
    pixels: Pixels = "exact"  # how images are decoded and resized
    precision: Precision | None = None  # of the checkpoints' networks; None: float32
    settle: float = SETTLE  # seconds between the turns of two models
    canvases: Sequence[tuple[int, int]] | None = None  # padded sizes, as of `PredictorOptions`

    def __post_init__(self) -> None:
        """Check types and ranges.

        Raises:
            ConfigError: a value has a wrong type, a number is too small or too large, or a list is empty.
        """
        check_types(self)
        check_device(self.device)
        InputOptions(self.pixels)
        for name, values, most in (
            ("batch", self.batches, MOST_AT_ONCE),
            ("concurrency", self.concurrency, MOST_AT_ONCE),
            ("size", self.size, LONGEST_SIDE),
        ):
            if not values or not all(1 <= value <= most for value in values):
                listed = shown(", ".join(map(shown_value, values)), 60) or "empty"
                raise ConfigError(f"{name} is {listed}; expected numbers of at least 1 and at most {most}")
        if self.size[0] * self.size[1] > MOST_PIXELS:
            raise ConfigError(f"size is {self.size[1]}x{self.size[0]}; expected at most {MOST_PIXELS} pixels")
        for name, value, least in (("repeat", self.repeat, 1), ("warmup", self.warmup, 0), ("seed", self.seed, 0)):
            if not least <= value <= LARGEST:
                raise ConfigError(f"{name} is {shown_value(value)}; expected at least {least} and at most {LARGEST}")


def numbers_from(text: str, option: str) -> tuple[int, ...]:
    """A list as it is typed, "1,2,4".

    Raises:
        ConfigError: it is none.
    """
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as e:
        raise ConfigError(f"{option} is {text!r}; expected whole numbers with commas between them: 1,2,4") from e


def size_from(text: str) -> tuple[int, int]:
    """`(height, width)` of a size as it is typed, "1280x720".

    Raises:
        ConfigError: it is none.
    """
    width, _, height = text.lower().partition("x")
    if not all(re.fullmatch("[0-9]{1,9}", side) for side in (width, height)):
        raise ConfigError(f"--size is {text!r}; expected WIDTHxHEIGHT in pixels: 1280x720")
    return int(height), int(width)


def cores_for(threads: int | None) -> tuple[int, ...]:
    """The first `threads` cores that this process may use; None: all of them.

    Raises:
        ConfigError: this process may use fewer cores.
    """
    usable = sorted(os.sched_getaffinity(0))
    if threads is not None and not 1 <= threads <= len(usable):
        raise ConfigError(f"--threads is {threads}; this process may use {len(usable)} cores: expected 1 to so many")
    return tuple(usable[:threads])
