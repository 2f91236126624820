"""Options of an export; light, so that a command can check them before it imports PyTorch."""

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from condinst_deploy.contract import Family
from condinst_deploy.contract.artifacts import (
    CHECKPOINT,
    EXPORT_FOLDER,
    INT8_ONNX,
    ONNX,
    check_checkpoint,
    check_kind,
    check_text,
)
from condinst_deploy.contract.model_settings import Selection
from condinst_deploy.errors import ConfigError, MissingFileError
from condinst_deploy.shown_text import shown_value
from condinst_deploy.support.atomic_write import check_writable
from condinst_deploy.support.input_files import read_text
from condinst_deploy.support.option_types import check_types
from condinst_export.quantization.calibration_options import CalibrationOptions


@dataclass(frozen=True)
class ExportOptions:
    """Options of an export; None keeps what the checkpoint says.

    Attributes:
        max_detections: slots for detections of one image; fixed in the file.
        score_threshold: a candidate's class probability (AdelaiDet: times centerness) must be above it; 0 to 1.
        nms_iou: overlap above which a detection of the same class is dropped; 0 to 1.
        static_shape: fixed batch, height and width of the input; None: all dynamic.
        candidates_per_level: candidates that go from each pyramid level to NMS.
        family: family that the checkpoint must be of.
        class_names: one for each class of the model; category ids are then 1, 2, and so on.
        int8: how to calibrate an INT8 file for CPUs; None: the file is in float32.
        keep_float: patterns of names of convolutions that an INT8 file keeps in float32.
    """

    max_detections: int | None = None
    score_threshold: float | None = None
    nms_iou: float | None = None
    static_shape: tuple[int, int, int] | None = None
    candidates_per_level: int | None = None
    family: Family | None = None
    class_names: tuple[str, ...] | None = None
    int8: CalibrationOptions | None = None
    keep_float: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check the numbers and the fixed shape, and that options of INT8 files come with a calibration.

        Raises:
            ConfigError: a value has a wrong type or is outside its range, a size is not positive or not a multiple of
                32, or there is no calibration.
        """
        check_types(self)
        Selection(**self.selection)
        if self.keep_float and self.int8 is None:
            raise ConfigError("--keep-float is for INT8 files; give --int8 and --calibration, too")
        if self.static_shape is None:
            return
        batch, height, width = self.static_shape
        if batch < 1 or height < 32 or width < 32 or height % 32 or width % 32:
            raise ConfigError(
                f"the fixed shape is {batch}x{height}x{width}; expected BATCHxHEIGHTxWIDTH with"
                " height and width multiples of 32, for example 1x800x1344"
            )

    @property
    def selection(self) -> dict[str, Any]:
        """Return the given settings of `Selection`, by their names."""
        names = ("max_detections", "score_threshold", "nms_iou", "candidates_per_level")
        return {name: value for name in names if (value := getattr(self, name)) is not None}


def checked_output(weights: Path, out: Path | None, *, int8: bool = False) -> Path:
    """The absolute path to write, after a check of both names and of the place.

    Args:
        weights: the checkpoint.
        out: the file to write; None: below `EXPORT_FOLDER`, under the checkpoint's name.
        int8: whether an INT8 file is written.

    Raises:
        CheckpointError: the checkpoint does not exist, or is no checkpoint.
        ConfigError: the name of the file to write does not end in .onnx, or .int8.onnx for INT8 files alone.
        OutputError: no file can be written there.
    """
    ending = INT8_ONNX if int8 else ONNX
    if out is not None and (not out.name.endswith(ending) or out.name.endswith(INT8_ONNX) != int8):
        reason = "" if out.suffix != ONNX else f": condinst-build-engine passes over {INT8_ONNX} files"
        raise ConfigError(f"--out is {out}; expected a name ending in {ending}{reason}")
    check_kind(weights, CHECKPOINT, "--weights")
    check_checkpoint(weights)
    path = (out or EXPORT_FOLDER / f"{weights.stem}{ending}").absolute()
    check_writable(path)
    return path


def class_names_from(path: Path) -> tuple[str, ...]:
    """Class names of a text file, one a line; empty lines do not count.

    Raises:
        ConfigError: it is a file of another kind, cannot be read, or names a class twice.
        MissingFileError: no file is there.
    """
    expected = "a text file with one class name a line"
    check_text(path, expected, ".txt")
    try:
        # a form feed or a line separator inside a name ends no line, as it would for `splitlines`
        lines = re.split(r"\r\n|\r|\n", read_text(path, "utf-8-sig"))
    except (FileNotFoundError, NotADirectoryError) as e:
        raise MissingFileError(f"no list of class names at {path}; expected {expected}") from e
    except (OSError, UnicodeDecodeError) as e:
        raise ConfigError(f"{path} cannot be read as a list of class names ({e})") from e
    names = tuple(line.strip() for line in lines if line.strip())
    if doubled := [name for name, count in Counter(names).items() if count > 1]:
        raise ConfigError(
            f"{path} names {shown_value(doubled[0])} more than once; expected a different name for each class"
        )
    return names
