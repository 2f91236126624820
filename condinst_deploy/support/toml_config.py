"""Read recipes: a TOML file becomes a frozen dataclass; settings that it does not name keep their default."""

import re
import tomllib
from collections.abc import Iterator
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, TypeVar

from condinst_deploy.errors import ConfigError
from condinst_deploy.shown_text import shown_value
from condinst_deploy.support.suggestions import did_you_mean
from condinst_deploy.support.validation import merged

T = TypeVar("T")


def recipe_from_toml(default: T, name: str, folder: Traversable) -> T:
    """Read a recipe of a package, by its name, or a TOML file, by its path.

    A recipe may begin with `base = "NAME"`, a recipe of the package; it then names only what is different.

    Args:
        default: the recipe of an empty file.
        name: a file of `folder` without its ending, or a path that ends in .toml.
        folder: the package's recipes.

    Raises:
        ConfigError: no recipe has that name, or one of its settings cannot be used.
    """
    path, values = _read(name, folder)
    try:
        base = values.pop("base", None)
        start = default if base is None else _base(default, base, folder)
        return merged(start, values)
    except ConfigError as e:
        raise ConfigError(f"{path}: {e}") from e


def named_settings(name: str, folder: Traversable) -> set[str]:
    """Settings that a recipe or its base names, with the tables they stand in: `model.preprocessing.short_side`.

    Raises:
        ConfigError: no recipe has that name, or it cannot be read.
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
        return path, tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as e:
        raise ConfigError(f"{path} cannot be read as a recipe ({e})") from e
    except (ValueError, RecursionError) as e:  # Python refuses integers of thousands of digits
        if isinstance(e, RecursionError):
            raise ConfigError(f"{path} cannot be read as a recipe: it is nested too deeply") from e
        raise ConfigError(f"{path}: {_longest_number(path)}; expected a whole number of at most 64 bits") from e


def _longest_number(path: Path) -> str:
    """Setting and length of the first number that Python does not read."""
    found = re.search(r"(?:([^\s=]+)[ \t]*=[ \t]*\[?)?[^\n]*?([0-9_]{4000,})", path.read_text(encoding="utf-8-sig"))
    name, digits = (found[1] or "a setting", len(found[2])) if found else ("a setting", 4000)
    return f"{name[:60]} is a whole number of {digits} digits"


def _base(default: T, name: object, folder: Traversable) -> T:
    if not isinstance(name, str):
        raise ConfigError(f"base is {shown_value(name)}; expected the name of a recipe in quotes")
    return recipe_from_toml(default, str(_packaged(name, folder)), folder)


def _packaged(name: str, folder: Traversable) -> Path:
    """File of a recipe that comes with the package."""
    known = {path.stem: path for path in sorted(Path(str(folder)).glob("*.toml"))}
    if name not in known:
        raise ConfigError(
            f"no recipe {shown_value(name)}; the package has {', '.join(known)}. Or give a file ending in .toml"
            f"{did_you_mean(name, known)}"
        )
    return known[name]
