"""Files of one build; light, so that a command can check them before it imports PyTorch."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from condinst_deploy.contract.artifacts import ENGINE, EXPORT_FOLDER, INT8_ONNX, ONNX
from condinst_deploy.errors import ConfigError
from condinst_deploy.support.input_files import real_path
from condinst_export.quantization.calibration_options import check_calibration_folder

if TYPE_CHECKING:
    from condinst_engines.quantization.calibrate import Request


@dataclass(frozen=True)
class EngineFiles:
    """Files of one build."""

    source: Path  # the exported file
    engine: Path | None = None  # None: below the current directory, under a name with builder, precision and targets
    keep_onnx: Path | None = None  # where to leave the graph that the builder got; written with the engine
    calibration: Path | None = None  # folder of images that half precision is checked on; None: a built-in set
    keep_policy: Path | None = None  # where to leave the policy of the range check, as a recipe
    request: "Request | None" = None  # of a quantised engine

    def __post_init__(self) -> None:
        """Check the names.

        Raises:
            ConfigError: an ending is wrong, a file has two roles, or the folder is a file.
            MissingFileError: the folder does not exist.
        """
        kinds = ((self.engine, ENGINE), (self.keep_onnx, ONNX), (self.keep_policy, ".toml"))
        for path, suffix in kinds:
            if path is not None and path.suffix != suffix:
                raise ConfigError(f"the file to write is {path}; expected a name ending in {suffix}")
        check_apart({"--onnx": self.source, "--keep-onnx": self.keep_onnx, "--out": self.engine})
        if self.calibration is not None:
            check_calibration_folder(self.calibration)


def only_exported(folder: Path = EXPORT_FOLDER) -> Path:
    """The only ONNX file that was exported below the current directory; files for CPUs (.int8.onnx) do not count.

    Raises:
        ConfigError: there is none, or more than one.
    """
    there = sorted(folder.glob(f"*{ONNX}"))
    found = [path for path in there if not path.name.endswith(INT8_ONNX)]
    if not found:
        passed_over = f" ({there[0].name} is for CPUs; engines are built from float32 files)" if there else ""
        raise ConfigError(
            f"no ONNX file in {folder.absolute()}{passed_over}:"
            " run condinst-export --weights model.pth here, or name one with --onnx"
        )
    if len(found) > 1:
        raise ConfigError(f"{folder} holds {', '.join(p.name for p in found)}: name one with --onnx")
    return found[0]


def check_apart(paths: Mapping[str, Path | None]) -> None:
    """Refuse one file in two roles: the one would be lost.

    Args:
        paths: option -> its file, None if it was not given.

    Raises:
        ConfigError: two options name the same file.
    """
    seen: dict[Path, str] = {}
    for option, path in paths.items():
        if path is None:
            continue
        other = seen.setdefault(real_path(path), option)
        if other != option:
            raise ConfigError(f"{other} and {option} are the same file, {path}; give each a different name")
