"""Write and read JSON: invalid values are never written, and text that cannot be parsed gives one clear reason."""

import json
import math
from typing import Any

from condinst_deploy.errors import OutputError
from condinst_deploy.shown_text import shown

DIGITS_READ = 4_000
"""Digits of a whole number that Python reads in every configuration."""

LONGEST_WHOLE = 10_000
"""Digits that a longer number is taken to have."""


def json_text(value: Any, what: str, *, indent: int | None = None, sort_keys: bool = False) -> str:
    """`value` as JSON in ASCII; without `indent` it has no spaces.

    Args:
        value: plain JSON values.
        what: what an error calls it.
        indent: spaces of a level.
        sort_keys: in the order of the keys.

    Raises:
        OutputError: a number in it is NaN or infinite, which JSON does not have.
    """
    separators = (",", ":") if indent is None else None
    try:
        return json.dumps(value, allow_nan=False, indent=indent, sort_keys=sort_keys, separators=separators)
    except ValueError as e:
        where, number = _not_finite(value) or ("", "a value that JSON does not have")
        raise OutputError(
            f"{what} cannot be written as JSON: {where or 'it'} is {number}; expected finite numbers"
        ) from e


def json_value(text: str | bytes) -> Any:
    """The value of a JSON text.

    A whole number of more digits than Python reads becomes the least one of so many digits. No setting's range has
    it, so that the check of the setting names its place.

    Raises:
        ValueError: the text is not JSON, or is nested too deeply; the message says which.
    """
    try:
        return json.loads(text)
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise
    except RecursionError as e:
        raise ValueError("nested too deeply") from e
    except ValueError:  # a number of thousands of digits
        try:
            return json.loads(text, parse_int=_whole)
        except RecursionError as e:
            raise ValueError("nested too deeply") from e


def _whole(text: str) -> int:
    digits = len(text.lstrip("-"))
    if digits <= DIGITS_READ:
        return int(text)
    size: int = 10 ** min(digits - 1, LONGEST_WHOLE)
    return -size if text.startswith("-") else size


def finite_or_none(value: float) -> float | None:
    """Return a number for JSON; null if it is NaN or infinite, which another field of the file explains."""
    return value if math.isfinite(value) else None


def _not_finite(value: Any, where: str = "") -> tuple[str, float] | None:
    """Place of the first number that is not finite, and the number."""
    if isinstance(value, float):
        return None if math.isfinite(value) else (where.lstrip("."), value)
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list | tuple) else ()
    found = (_not_finite(part, f"{where}.{shown(key, 60)}") for key, part in items)
    return next((place for place in found if place is not None), None)
