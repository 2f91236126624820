"""Check the types of options and arguments from Python, so that a wrong type is a one-line error at the start."""

from collections.abc import Callable, Collection, Mapping, Sequence
from enum import Enum
from functools import cache, wraps
from inspect import signature
from numbers import Integral, Real
from os import PathLike
from pathlib import Path
from types import UnionType
from typing import Any, Literal, ParamSpec, Protocol, TypeVar, Union, get_args, get_origin, get_type_hints

from condinst_deploy.errors import SettingError
from condinst_deploy.shown_text import shown_value

P = ParamSpec("P")
R = TypeVar("R")

_PLAIN: dict[Any, tuple[Any, str]] = {
    bool: (bool, "True or False"),
    int: (Integral, "a whole number"),
    float: (Real, "a number"),
    str: (str, "text"),
    type(None): (type(None), "None"),
    Path: ((str, PathLike), "a path"),
}
"""Type of a field -> types that are taken for it, and what a message calls it."""


def check_types(options: Any, where: str = "") -> None:
    """Check the values of a dataclass against the types of its fields.

    Numbers of NumPy are numbers, texts are paths, and lists are taken for tuples. The ranges are not checked here.
    Numbers of NumPy are replaced by Python's: those of 8 bits would wrap where they are multiplied.

    Args:
        options: the dataclass.
        where: what stands before a field's name in messages, as "optimizer.".

    Raises:
        ConfigError: a value has another type.
    """
    options_type: Any = type(options)
    for name, kind in _types_of(options_type).items():
        value = getattr(options, name)
        check_type(f"{where}{name}", value, kind)
        plain = _plain(value)
        if plain is not value:
            object.__setattr__(options, name, plain)  # the dataclass can be frozen


def check_type(name: str, value: Any, kind: Any) -> None:
    """Check one value.

    Raises:
        ConfigError: it is not of the type.
    """
    if not _fits(value, kind):
        raise SettingError(name, f"is {shown_value(value)}; expected {_words(kind)}")


def checked_arguments(function: Callable[P, R]) -> Callable[P, R]:
    """A function that checks its arguments against their annotations, as `check_types` does, before it runs.

    Those of `*args` and `**kwargs` are not checked.
    """
    parameters = signature(function).parameters.values()
    names = [each.name for each in parameters if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)]

    @wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        kinds = _types_of(function)
        for name, value in [*zip(names, args, strict=False), *kwargs.items()]:
            if name in kinds:
                check_type(name, value, kinds[name])
        return function(*args, **kwargs)

    return checked


def _plain(value: Any) -> Any:
    """Numbers of NumPy, alone or in tuples and lists, as Python's; everything else as it is."""
    if isinstance(value, Real) and hasattr(value, "item"):
        return value.item()
    if type(value) in (tuple, list):
        parts = [_plain(part) for part in value]
        if any(new is not old for new, old in zip(parts, value, strict=True)):
            return type(value)(parts)
    return value


@cache
def _types_of(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)


def _fits(value: Any, kind: Any) -> bool:
    origin, inside = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return any(_fits(value, option) for option in inside)
    if origin is Literal:  # which of them is checked where the value is used
        return isinstance(value, tuple({type(choice) for choice in inside}))
    if origin is Callable:
        return callable(value)
    if origin in (tuple, frozenset):
        return _fits_inside(value, origin, inside)
    if origin in (Sequence, Collection):  # text, bytes and mappings are refused here
        container: Any = origin
        several = isinstance(value, container) and not isinstance(value, str | bytes | Mapping)
        several = several and getattr(value, "shape", None) != ()  # an array without axes has no parts
        return several and all(_fits(part, inside[0]) for part in value)
    if origin is not None:
        container = origin
        return isinstance(value, container)
    return _is_one(value, kind)


def _fits_inside(value: Any, origin: Any, inside: tuple[Any, ...]) -> bool:
    if not isinstance(value, (tuple, list) if origin is tuple else (frozenset, set)):
        return False
    if origin is tuple and inside[-1] is not Ellipsis:
        return len(value) == len(inside) and all(map(_fits, value, inside))
    return all(_fits(part, inside[0]) for part in value)


def _is_one(value: Any, kind: Any) -> bool:
    if kind in _PLAIN:
        return isinstance(value, _PLAIN[kind][0]) and (kind is bool or not isinstance(value, bool))
    if kind is Any or not isinstance(kind, type):
        return True
    if issubclass(kind, Enum):
        return isinstance(value, str | int | kind) and value in list(kind)
    if Protocol in kind.__bases__:
        return all(hasattr(value, name) for name in vars(kind) if not name.startswith("_"))
    return isinstance(value, kind)


def _words(kind: Any) -> str:
    origin, inside = get_origin(kind), get_args(kind)
    if kind in _PLAIN:
        return _PLAIN[kind][1]
    if origin in (Union, UnionType):
        # a path may be text, too
        return " or ".join(_words(option) for option in inside if option is not str or Path not in inside)
    if origin is Literal:
        return f"one of {', '.join(map(str, inside))}"
    if origin is Callable:
        return "a function"
    if origin is tuple and inside[-1] is not Ellipsis:
        return f"a tuple: {', '.join(map(_words, inside))}"
    if origin in (tuple, frozenset, Sequence, Collection):
        name = "list" if origin in (Sequence, Collection) else origin.__name__
        return f"a {name}, of each part {_words(inside[0])}"
    return getattr(kind, "__name__", str(kind))
