"""Turn plain data (TOML, JSON, entries of a checkpoint) into frozen dataclasses, with one-line errors.

msgspec does the conversion. This module finds the value that msgspec refuses, and says where it stands, what it is and
what was expected. It also refuses what msgspec accepts and this toolkit cannot use: unknown settings, numbers that are
not finite, integers of more than 64 bits, text that is not Unicode, and deep nesting.
"""

import math
import sys
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, asdict, dataclass, fields, is_dataclass
from functools import cache
from numbers import Real
from types import UnionType
from typing import Any, Literal, NamedTuple, TypeVar, Union, get_args, get_origin, get_type_hints

from condinst_deploy.errors import ConfigError, SettingError
from condinst_deploy.shown_text import shown_value
from condinst_deploy.support.suggestions import did_you_mean

T = TypeVar("T")

DEEPEST = 16
"""Levels of nesting that are followed."""

NAMES_SHOWN = 20
"""Unknown settings that a message lists; it counts the others."""

_WORDS: dict[Any, tuple[str, str]] = {
    bool: ("true or false", "values true or false"),
    int: ("a whole number", "whole numbers"),
    float: ("a number", "numbers"),
    str: ("text", "texts"),
    type(None): ("nothing", "nothing"),
}
"""Type -> what a message calls one value of it, and several."""


_LARGEST = sys.float_info.max
"""NaN, infinity and whole numbers that no float holds are beyond it."""


class _Place(NamedTuple):
    value: object
    kind: Any  # the type that it is to have
    where: str  # for example optimizer.betas[2]


@dataclass(frozen=True)
class Limits:
    """Range of a setting's numbers; they are always finite."""

    least: float = -math.inf
    most: float = math.inf
    whole: bool = False
    open: bool = False  # `least` itself is refused
    below: bool = False  # `most` itself is refused

    def hold(self, value: object) -> bool:
        """Return whether a value is in the range."""
        if isinstance(value, bool) or not isinstance(value, int if self.whole else int | float):
            return False
        if not -_LARGEST <= value <= _LARGEST:
            return False
        inside = self.least <= value <= self.most
        return inside and not (self.open and value == self.least) and not (self.below and value == self.most)

    def __str__(self) -> str:
        number = "a whole number" if self.whole else "a number"
        if self.least == -math.inf:
            return "a finite number"
        if self.most == math.inf:
            return f"{number} {'above' if self.open else 'of at least'} {self.least}"
        upper = f"to below {self.most}" if self.below else f"to {self.most}"
        return f"{number} {'above' if self.open else 'from'} {self.least} {upper}"


def typed(values: object, kind: type[T], where: str = "") -> T:
    """Convert plain data to a type; dataclasses run their own checks (`__post_init__`).

    Args:
        values: dictionaries, lists or tuples, numbers, texts, booleans and None.
        kind: a dataclass, or a type of what is in one.
        where: name of the data in messages.

    Raises:
        ConfigError: a setting is unknown or missing, has the wrong type, or is refused by its dataclass.
    """
    import msgspec  # 50 ms, which commands that read no settings do not pay

    _check_plain(values, where)
    _check_known(_Place(values, kind, where))
    try:
        return msgspec.convert(values, kind)
    except msgspec.ValidationError as e:
        raise ConfigError(_message(_refused(_Place(values, kind, where)), str(e))) from e
    except ConfigError as e:  # of a dataclass, which does not know where it stands
        raise ConfigError(_placed(_refused(_Place(values, kind, where)).where, e)) from e


def known_part(values: object, kind: Any) -> object:
    """Plain data without the settings that a dataclass, or one inside it, does not have.

    For files that later versions and other programs extend; `typed` refuses what it does not know.
    """
    table, origin, args = _table_type(kind), get_origin(kind), get_args(kind)
    if table is not None and isinstance(values, dict):
        return {name: known_part(values[name], own) for name, own in _hints(table).items() if name in values}
    if origin is tuple and args[-1] is Ellipsis and isinstance(values, list | tuple):
        return [known_part(each, args[0]) for each in values]
    return values


def merged(default: T, values: object, where: str = "") -> T:
    """`default`, a dataclass, with the settings that `values` names; tables are merged recursively.

    Raises:
        ConfigError: as `typed`.
    """
    kind = type(default)
    _check_plain(values, where)
    _check_known(_Place(values, kind, where))
    if not isinstance(values, dict):
        raise ConfigError(_message(_Place(values, kind, where), ""))
    return typed(_overlaid(asdict(default), values), kind, where)  # type: ignore[call-overload]


def check_number(name: str, value: object, limits: Limits) -> None:
    """Check a number of a dataclass that can also be made without `typed`.

    Raises:
        ConfigError: it is not a finite number inside the limits.
    """
    if not limits.hold(value):
        raise SettingError(name, f"is {shown_value(value)}; expected {limits}")


def checked_number(name: str, value: Any, limits: Limits) -> float:
    """Return a number that a caller gave as an argument, of Python's or of NumPy's types.

    Raises:
        ConfigError: it is not a finite number inside the limits.
    """
    plain = value.item() if isinstance(value, Real) and hasattr(value, "item") else value
    check_number(name, plain, limits)
    return float(plain)


def check_given(options: object, **limits: Limits) -> None:
    """Check those numbers of a dataclass that are not None, of Python's or of NumPy's types.

    Args:
        options: the dataclass.
        limits: of each field, by its name.

    Raises:
        ConfigError: one is not a finite number inside its limits.
    """
    for name, each in limits.items():
        if (value := getattr(options, name)) is not None:
            checked_number(name, value, each)


def check_choice(name: str, value: object, kind: Any) -> None:
    """Check that a value is one of a `Literal` type.

    Raises:
        ConfigError: it is not.
    """
    # the type first: values that cannot be hashed or compared are no choices
    if not any(type(value) is type(choice) and value == choice for choice in get_args(kind)):
        raise SettingError(name, f"is {shown_value(value)}; expected {_expected(kind)}")


def printable(text: str) -> str:
    r"""A text that every encoder accepts: lone surrogates, as in undecodable file names, become `\udcff`."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _overlaid(plain: dict[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(plain)
    for name, value in values.items():
        old = plain.get(name)
        result[name] = _overlaid(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return result


def _check_plain(values: object, where: str) -> None:
    """Refuse values that no setting can have, wherever they stand; shared containers are checked once."""
    seen: set[int] = set()
    left = [(values, where, 0)]
    while left:
        value, place, depth = left.pop()
        if isinstance(value, dict | list | tuple):
            if depth > DEEPEST:
                raise ConfigError(f"{_shown_place(place)} is nested deeper than {DEEPEST} levels")
            if id(value) not in seen:
                seen.add(id(value))
                left += ((child, name, depth + 1) for child, name in _contents(value, place))
        elif problem := _problem(value):
            raise ConfigError(f"{_shown_place(place)} is {shown_value(value)}; expected {problem}")


def _problem(value: object) -> str | None:
    """Return what was expected instead of a value of a wrong type."""
    if isinstance(value, float) and not math.isfinite(value):
        return "a finite number"
    if isinstance(value, int) and value.bit_length() > 63:
        return "a whole number of at most 64 bits"
    if isinstance(value, str) and not is_unicode(value):
        return "text in Unicode, without lone surrogates"
    return None


def is_unicode(text: str) -> bool:
    """Return False for a text with lone surrogates, as names of files that are not UTF-8 have."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _contents(value: dict[Any, Any] | list[Any] | tuple[Any, ...], where: str) -> Iterator[tuple[object, str]]:
    if isinstance(value, dict):
        for key, child in value.items():
            yield child, _joined(where, key)
    else:
        for i, child in enumerate(value):
            yield child, f"{where}[{i}]"


def _joined(where: str, key: object) -> str:
    name = key if isinstance(key, str) and key.isidentifier() and len(key) <= 60 else shown_value(key)
    return f"{where}.{name}" if where else str(name)


def _shown_place(where: str) -> str:
    return where or "the data"


@cache
def _hints(kind: Any) -> dict[str, Any]:
    """Fields of a dataclass that its constructor takes, and their types."""
    hints = get_type_hints(kind)
    return {field.name: hints[field.name] for field in fields(kind) if field.init}


def _check_known(place: _Place) -> None:
    """Refuse names that no field has, in this table and in those inside it."""
    kind = _table_type(place.kind)
    if kind is not None and isinstance(place.value, dict):
        known = _hints(kind)
        unknown = [name for name in place.value if name not in known]
        if unknown:
            raise ConfigError(_unknown(unknown, list(known), place.where))
    for child in _children(place):
        _check_known(child)


def _unknown(names: list[Any], known: list[str], where: str) -> str:
    listed = ", ".join(_joined(where, name) for name in names[:NAMES_SHOWN])
    more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    several = "s" if len(names) > 1 else ""
    close = did_you_mean(names[0], known) if isinstance(names[0], str) and len(names[0]) <= 60 else ""
    return f"unknown setting{several} {listed}{more}; expected one of {', '.join(known)}{close}"


def _table_type(kind: Any) -> Any:
    """The dataclass that a type is, or has as an alternative; None if it has none."""
    options = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    return next((option for option in options if isinstance(option, type) and is_dataclass(option)), None)


def _children(place: _Place) -> Iterator[_Place]:
    """The parts of a value whose types are known."""
    value, kind, where = place
    table, origin, args = _table_type(kind), get_origin(kind), get_args(kind)
    if table is not None and isinstance(value, dict):
        hints = _hints(table)
        for name in hints.keys() & value.keys():
            yield _Place(value[name], hints[name], _joined(where, name))
    elif isinstance(origin, type) and issubclass(origin, Mapping) and isinstance(value, dict):
        for key, child in value.items():
            yield _Place(child, args[1], _joined(where, key))
    elif origin is tuple and isinstance(value, list | tuple):
        kinds = [args[0]] * len(value) if args[-1] is Ellipsis else list(args)
        if len(kinds) == len(value):
            for i, (child, own) in enumerate(zip(value, kinds, strict=True)):
                yield _Place(child, own, f"{where}[{i}]")


def _refused(place: _Place) -> _Place:
    """The innermost part that msgspec, or a dataclass's own check, refuses."""
    import msgspec

    for child in _children(place):
        try:
            msgspec.convert(child.value, child.kind)
        except (msgspec.ValidationError, ConfigError):
            return _refused(child)
    return place


def _placed(where: str, error: ConfigError) -> str:
    """What a dataclass says about itself, with the place of the setting that it names."""
    if not where:
        return str(error)
    if not isinstance(error, SettingError):
        return f"{where}: {error}"
    outer, _, own = where.rpartition(".")
    if error.setting.startswith(f"{own.partition('[')[0]}."):  # it names its own table, too
        return f"{outer}.{error}" if outer else str(error)
    return f"{where}.{error}"


def _message(place: _Place, reason: str) -> str:
    value, kind, where = place
    table = _table_type(kind)
    if table is not None and isinstance(value, dict):
        required = [f.name for f in fields(table) if f.default is MISSING and f.default_factory is MISSING]
        missing = [_joined(where, name) for name in required if name not in value]
        # otherwise a check of the dataclass refused what has the right types
        return f"{', '.join(missing)} is missing" if missing else f"{_shown_place(where)} cannot be used ({reason})"
    return f"{_shown_place(where)} is {shown_value(value)}; expected {_expected(kind)}"


def _expected(kind: Any, several: bool = False) -> str:
    """Return the name of a type in messages."""
    origin, args = get_origin(kind), get_args(kind)
    if kind in _WORDS:
        return _WORDS[kind][several]
    if origin is Literal:
        return f"one of {', '.join(map(str, args))}"
    if origin in (Union, UnionType):
        return " or ".join(_expected(option, several) for option in args)
    if origin is tuple:
        count = "" if args[-1] is Ellipsis else f"{len(args)} "
        return f"{'lists' if several else 'a list'} of {count}{_expected(args[0], several=True)}"
    return "tables of settings" if several else "a table of settings"
