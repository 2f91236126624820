"""Every long function of the public interface tells its caller how far it is, in one way."""

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any, get_args, get_type_hints

import pytest

import condinst_deploy
import condinst_engines
import condinst_export
from condinst_deploy import evaluate, predict_files, train
from condinst_engines import build_engine
from condinst_export import export_model

PACKAGES = (condinst_deploy, condinst_export, condinst_engines)
PUBLIC = {*condinst_deploy.__all__, *condinst_export.__all__, *condinst_engines.__all__}


@pytest.mark.parametrize("function", [train, predict_files, evaluate, export_model, build_engine])
def test_a_long_function_takes_functions_that_it_calls_and_prints_nothing_without(function: Callable[..., Any]) -> None:
    name, parameter = list(inspect.signature(function).parameters.items())[-1]
    assert name in ("reports", "hooks")
    assert parameter.default is None
    (kind,) = (option for option in get_args(get_type_hints(function)[name]) if dataclasses.is_dataclass(option))
    assert isinstance(kind, type)
    calls = {field.name for field in dataclasses.fields(kind)}
    assert {"on_note"} < calls
    # the class can be imported beside the function
    public = [each for each in PUBLIC if kind in (getattr(package, each, None) for package in PACKAGES)]
    assert public, kind
