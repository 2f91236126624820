"""How recipes are read: a TOML file becomes a frozen dataclass, and what it leaves out keeps its default."""

import tomllib
from dataclasses import fields, is_dataclass, replace
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, TypeVar

from condinst_deploy.errors import ConfigError
from condinst_deploy.support.suggestions import did_you_mean

T = TypeVar("T")


def recipe_from_toml(default: T, name: str, folder: Traversable) -> T:
    """Read a recipe of a package, by its name, or a TOML file, by its path.

    A recipe may begin with `base = "NAME"`, a recipe of the package; it then says only what is different.

    Args:
        default: the recipe of an empty file.
        name: a file of `folder` without its ending, or a path that ends in .toml.
        folder: the package's recipes.

    Raises:
        ConfigError: there is none of that name, or it has settings that cannot be used.
    """
    path = Path(name)
    if path.suffix != ".toml":
        path = _packaged(name, folder)
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as e:
        raise ConfigError(f"{path} cannot be read as a recipe ({e})") from e
    try:
        base = values.pop("base", None)
        start = default if base is None else recipe_from_toml(default, str(_packaged(str(base), folder)), folder)
        return filled(start, values)
    except ConfigError as e:
        raise ConfigError(f"{path}: {e}") from e


def _packaged(name: str, folder: Traversable) -> Path:
    """File of a recipe that comes with the package."""
    known = {path.stem: path for path in sorted(Path(str(folder)).glob("*.toml"))}
    if name not in known:
        raise ConfigError(
            f"no recipe {name!r}; the package has {', '.join(known)}. Or give a file ending in .toml"
            f"{did_you_mean(name, known)}"
        )
    return known[name]


def filled(default: T, values: dict[str, Any], where: str = "") -> T:
    """`default` with the fields that `values` names, tables recursively.

    Raises:
        ConfigError: a setting is unknown or has the wrong type.
    """
    known = {f.name: getattr(default, f.name) for f in fields(default)}  # type: ignore[arg-type]
    changes: dict[str, Any] = {}
    for name, value in values.items():
        if name not in known:
            raise ConfigError(
                f"unknown setting {where}{name}; expected one of {', '.join(known)}{did_you_mean(name, known)}"
            )
        old = known[name]
        if is_dataclass(old) and not isinstance(old, type) and isinstance(value, dict):
            changes[name] = filled(old, value, f"{where}{name}.")
        elif isinstance(old, tuple) and isinstance(value, list):
            changes[name] = tuple(value)
        elif old is not None and not isinstance(value, _accepted(old)):
            raise ConfigError(f"{where}{name} is {value!r}; expected {type(old).__name__}")
        else:
            changes[name] = value
    return replace(default, **changes)  # type: ignore[type-var]


def _accepted(old: Any) -> tuple[type, ...]:
    # a whole number may stand where a fraction is expected, and a list of a recipe is a tuple of a checkpoint
    return (int, float) if isinstance(old, float) else (type(old),)
