"""Images of a calibration's folder: some to calibrate on, others held out to judge the result.

Light, so that commands can check a folder before they import anything large.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from condinst_deploy.errors import ConfigError, ImageError
from condinst_deploy.imaging.image_files import expand_sources
from condinst_deploy.imaging.image_sizes import headers_of
from condinst_deploy.shown_text import counted
from condinst_export.quantization.calibration_options import CalibrationOptions

HELD_OUT = 50
"""Most images that the result is evaluated on."""

LEAST_FOLDER = 2
"""One image to calibrate on and one to judge by."""

FEW_HELD_OUT = 20
"""Below it the agreement says little: one image more or less changes it. A folder of a hundred holds out as many."""


class Divided(NamedTuple):
    """Files of a folder; none is in both parts."""

    calibration: tuple[Path, ...]
    held_out: tuple[Path, ...]


def divided(folder: Path, count: int) -> Divided:
    """Hold out a fifth of a folder at most, evenly spread, and take up to `count` of the other images.

    Args:
        folder: with images, not searched recursively.
        count: most images to calibrate on.

    Raises:
        ConfigError: it has too few images.
        ImageError: it has none.
    """
    found = [Path(path) for path in expand_sources(folder)]
    if len(found) < LEAST_FOLDER:
        raise ConfigError(
            f"{folder} holds {len(found)} image; expected at least {LEAST_FOLDER}: some to calibrate on"
            " and others to judge by. A hundred of the kind that the model will see are a good number"
        )
    held_out = spread(found, max(1, min(HELD_OUT, len(found) // 5)))
    judged = set(held_out)
    return Divided(tuple(spread([path for path in found if path not in judged], count)), tuple(held_out))


def few_images(held_out: int) -> str | None:
    """What a user should know of a result that was judged on so many images; None: they are enough."""
    if held_out >= FEW_HELD_OUT:
        return None
    return (
        f"judged on {counted(held_out, 'image')} only, so the agreement says little: a fifth of the images in"
        f" --calibration, at most {HELD_OUT}, are held out to judge the result. Put at least {5 * FEW_HELD_OUT} images"
        " there, or compare the file with the float32 one on annotated images (condinst-eval)"
    )


def spread(paths: Sequence[Path], count: int) -> list[Path]:
    """At most `count` of the paths, at even distances."""
    if len(paths) <= count:
        return list(paths)
    return [paths[i * len(paths) // count] for i in range(count)]


def check_calibration(options: CalibrationOptions) -> None:
    """Check before the work that a calibration has enough images, and that they can be read.

    Raises:
        ConfigError: the folder has too few images.
        ImageError: it has none, or the header of one that is used cannot be read.
    """
    images = divided(options.folder, options.images)
    check_headers([*images.calibration, *images.held_out])


def check_headers(paths: Sequence[Path]) -> None:
    """Check by their headers that images can be read, which takes no time beside the work that needs them.

    Raises:
        ImageError: one cannot.
    """
    for path, header in zip(paths, headers_of(paths), strict=True):
        if header.problem:
            raise ImageError(f"{path} cannot be read: {header.problem}; replace it, or take it out of the folder")
