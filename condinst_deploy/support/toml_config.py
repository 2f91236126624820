"""Read recipes: a TOML file becomes a frozen dataclass; settings that it does not name keep their default."""

import re
import tomllib
from collections.abc import Iterator
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, TypeVar

from condinst_deploy.errors import ConfigError, MissingFileError
from condinst_deploy.shown_text import shown_value
from condinst_deploy.support.input_files import read_text
from condinst_deploy.support.json_text import DIGITS_READ
from condinst_deploy.support.suggestions import did_you_mean
from condinst_deploy.support.validation import merged

T = TypeVar("T")

MOST_TEXT = 10_000_000
"""Characters of a recipe; Python takes some 10 s for so many."""

MOST_PARTS = 50
"""Parts of a key, `table.table.setting`."""

_PART = r"""(?:[\w-]++|"[^"\n]*+"|'[^'\n]*+')[ \t]*+\.[ \t]*+"""
_LONG_KEY = re.compile(rf"(?<![\w-])(?:{_PART}){{{MOST_PARTS}}}")


def recipe_from_toml(default: T, name: str, folder: Traversable) -> T:
    """Read a recipe of a package, by its name, or a TOML file, by its path.

    A recipe may begin with `base = "NAME"`, a recipe of the package; it then names only what is different.

    Args:
        default: the recipe of an empty file.
        name: a file of `folder` without its ending, or a path that ends in .toml.
        folder: the package's recipes.

    Raises:
        ConfigError: no recipe of the package has that name, or one of its settings cannot be used.
        MissingFileError: the file does not exist.
    """
    path, values = _read(name, folder)
    try:
        base = values.pop("base", None)
        start = default if base is None else _base(default, base, folder)
        return merged(start, values)
    except ConfigError as e:
        raise ConfigError(f"{path}: {e}") from e


def named_settings(name: str, folder: Traversable) -> set[str]:
    """Settings that a recipe or its base names, with the names of their tables: `model.preprocessing.short_side`.

    Raises:
        ConfigError: no recipe of the package has that name, or it cannot be read.
        MissingFileError: the file does not exist.
    """
    _, values = _read(name, folder)
    base = values.pop("base", None)
    return set(_names(values)) | (named_settings(base, folder) if isinstance(base, str) else set())


def _names(values: dict[str, Any]) -> Iterator[str]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from (f"{name}.{inner}" for inner in _names(value))
        else:
            yield name


def _read(name: str, folder: Traversable) -> tuple[Path, dict[str, Any]]:
    """File and content of a recipe."""
    path = Path(name)
    if path.suffix != ".toml":
        path = _packaged(name, folder)
    try:
        text = read_text(path, "utf-8-sig")
        _check_readable(text, path)
        return path, tomllib.loads(text)
    except (FileNotFoundError, NotADirectoryError) as e:
        raise MissingFileError(
            f"no recipe at {path}; expected a TOML file, or one of the package: {', '.join(_known(folder))}"
        ) from e
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as e:
        raise ConfigError(f"{path} cannot be read as a recipe ({e})") from e
    except RecursionError as e:
        raise ConfigError(f"{path} cannot be read as a recipe: it is nested too deeply") from e
    except ValueError as e:  # Python refuses integers of thousands of digits
        raise ConfigError(f"{path}: {_longest_number(text)}; expected a whole number of at most 64 bits") from e


def _check_readable(text: str, path: Path) -> None:
    """Refuse texts that Python's reader takes minutes for: its time grows with the square of a key's parts."""
    if len(text) > MOST_TEXT:
        raise ConfigError(f"{path} has {len(text)} characters; expected a recipe of at most {MOST_TEXT}")
    found = _LONG_KEY.search(text)
    if found is not None:
        line = text.count("\n", 0, found.start()) + 1
        raise ConfigError(f"{path}: line {line} has a key of more than {MOST_PARTS} parts; expected table.setting")


def _longest_number(text: str) -> str:
    """Setting and length of the first number that Python does not read."""
    found = next((found for found in re.finditer("[0-9_]+", text) if len(found[0]) > DIGITS_READ), None)
    if found is None:
        return f"a setting is a whole number of more than {DIGITS_READ} digits"
    name = text[text.rfind("\n", 0, found.start()) + 1 : found.start()].partition("=")[0].strip()
    return f"{name[:60] or 'a setting'} is a whole number of {len(found[0])} digits"


def _base(default: T, name: object, folder: Traversable) -> T:
    if not isinstance(name, str):
        raise ConfigError(f"base is {shown_value(name)}; expected the name of a recipe in quotes")
    return recipe_from_toml(default, str(_packaged(name, folder)), folder)


def _packaged(name: str, folder: Traversable) -> Path:
    """File of a recipe that comes with the package."""
    known = _known(folder)
    if name not in known:
        raise ConfigError(
            f"no recipe {shown_value(name)}; the package has {', '.join(known)}. Or give a file ending in .toml"
            f"{did_you_mean(name, known)}"
        )
    return known[name]


def _known(folder: Traversable) -> dict[str, Path]:
    """Files of the recipes that come with the package, by their names."""
    return {path.stem: path for path in sorted(Path(str(folder)).glob("*.toml"))}
