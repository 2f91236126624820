"""Options of a calibration; light, so that commands can check them before they import anything large."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from condinst_deploy.contract.artifacts import check_folder
from condinst_deploy.errors import ConfigError
from condinst_deploy.shown_text import shown_value
from condinst_deploy.support.option_types import check_types

Method = Literal["entropy", "mse", "max"]
METHODS: tuple[Method, ...] = get_args(Method)

IMAGES = 100
"""Images that are calibrated on, where the user does not say."""

METHOD: Method = "mse"
"""How ranges are found, where the user does not say."""


@dataclass(frozen=True)
class CalibrationOptions:
    """Options for finding the ranges of activations.

    Attributes:
        folder: with images of the kind that the model will see. Some are held out to judge the result.
        images: most images to calibrate on.
        method: `max` keeps every value; `mse` has the least mean squared error; `entropy` keeps the distribution.
    """

    folder: Path
    images: int = IMAGES
    method: Method = METHOD

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ConfigError: a value has a wrong type, the folder is a file, the count is less than 1, or the method is
                unknown.
            MissingFileError: the folder does not exist.
        """
        check_types(self)
        object.__setattr__(self, "folder", Path(self.folder))  # text is taken, too
        check_calibration_folder(self.folder)
        if self.images < 1:
            raise ConfigError(f"--calibration-images is {shown_value(self.images)}; expected at least 1")
        if self.method not in METHODS:
            raise ConfigError(f"--calibration-method is {self.method!r}; expected one of {', '.join(METHODS)}")


def check_calibration_folder(folder: Path) -> None:
    """Check that the value of --calibration is a folder.

    Raises:
        ConfigError: it is a file.
        MissingFileError: nothing is there.
    """
    check_folder(folder, "a folder of images in --calibration")


def calibration_from(
    folder: Path | None, images: int | None, method: str | None, asked_by: Sequence[str], kinds: str = "--int8"
) -> CalibrationOptions | None:
    """The options of a command line; None: nothing is quantised.

    Args:
        folder: of --calibration.
        images: of --calibration-images.
        method: of --calibration-method.
        asked_by: the options that were given and need a calibration.
        kinds: the command's options for a quantised file, for messages.

    Raises:
        ConfigError: an option is missing or cannot be used.
        MissingFileError: the folder does not exist.
    """
    if not asked_by:
        given = {"--calibration-images": images, "--calibration-method": method}
        names = [name for name, value in given.items() if value is not None]
        if names:
            raise ConfigError(f"{names[0]} is for quantised files; give {kinds}, too")
        return None
    if folder is None:
        raise ConfigError(
            f"{asked_by[0]} needs --calibration DIR: a folder of images of the kind that the model will see"
        )
    return CalibrationOptions(folder, IMAGES if images is None else images, method or METHOD)  # type: ignore[arg-type]
