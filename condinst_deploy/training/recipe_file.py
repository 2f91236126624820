"""A recipe as a TOML file: the folder of a run keeps what it was trained with."""

from pathlib import Path
from typing import Any

from condinst_deploy.support.atomic_write import atomic_path
from condinst_deploy.training.recipe import Recipe

_ESCAPES = {code: f"\\u{code:04x}" for code in (*range(32), 127)} | {ord('"'): '\\"', ord("\\"): "\\\\"}
"""Characters that a basic string of TOML must not hold as they are."""


def recipe_text(recipe: Recipe) -> str:
    """All settings of a recipe in TOML, which `load_recipe` reads; TOML has no word for None, which is left out."""
    return "\n".join(_lines(recipe.to_dict(), ())) + "\n"


def write_recipe(recipe: Recipe, path: Path) -> None:
    """Write a recipe.

    Raises:
        OutputError: the file cannot be written.
    """
    with atomic_path(path) as temporary:
        temporary.write_text(recipe_text(recipe), encoding="utf-8")


def _lines(table: dict[str, Any], place: tuple[str, ...]) -> list[str]:
    """A table's own settings first, then the tables in it."""
    lines = []
    for name, value in table.items():
        if value is not None and not isinstance(value, dict):
            lines.append(f"{name} = {_value(value)}")
    for name, value in table.items():
        if isinstance(value, dict):
            inner = (*place, name)
            lines += ["", f"[{'.'.join(inner)}]", *_lines(value, inner)]
    return lines


def _value(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(_value(each) for each in value)}]"
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    return f'"{value.translate(_ESCAPES)}"' if isinstance(value, str) else str(value)
