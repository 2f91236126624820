"""Commands only turn options into one call and print what it returns."""

import ast
import inspect
from importlib import import_module
from pathlib import Path
from typing import Any, get_origin

import pytest

from tests.support.commands import COMMANDS, module_of


@pytest.mark.parametrize("script", COMMANDS)
def test_a_command_has_at_most_forty_lines_of_orchestration(script: str) -> None:
    source = Path(inspect.getfile(import_module(module_of(COMMANDS[script])))).read_text()
    functions = [node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)]
    (command,) = [function for function in functions if function.name == COMMANDS[script].split(":")[1]]
    body = command.body[1:] if ast.get_docstring(command) else command.body
    assert 0 < body[-1].end_lineno - body[0].lineno + 1 <= 40  # type: ignore[operator]


@pytest.mark.parametrize("package", ["condinst_deploy", "condinst_export", "condinst_engines"])
def test_every_public_name_resolves_and_is_documented(package: str) -> None:
    module = import_module(package)
    for name in module.__all__:
        one: Any = getattr(module, name)
        alias = get_origin(one) is not None  # of a type; its documentation is in the source
        assert name.startswith("__") or alias or inspect.getdoc(one), name
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        module.nothing  # noqa: B018
