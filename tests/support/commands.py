"""Console scripts and the modules that have their functions."""

import tomllib
from collections.abc import Callable
from importlib import import_module
from inspect import unwrap
from pathlib import Path
from typing import Any

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"
COMMANDS: dict[str, str] = tomllib.loads(PYPROJECT.read_text())["project"]["scripts"]
"""Every console script -> its entry point, `package.commands:name`."""


def module_of(entry_point: str) -> str:
    """The module that has the command's function."""
    package, name = entry_point.split(".commands:")
    return "condinst_export.cli" if name == "export" else f"{package}.cli.{name}"


def function_of(script: str) -> Callable[..., Any]:
    """The function that a console script turns options into a call of."""
    name = COMMANDS[script].split(":")[1]
    function: Callable[..., Any] = unwrap(getattr(import_module(module_of(COMMANDS[script])), name))
    return function
