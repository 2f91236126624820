"""Text of Triton's `config.pbtxt`: protobuf's text format, from plain values."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias


class Word(str):
    """A name of an enumeration, which stands without quotes: `TYPE_FP32`, `KIND_GPU`."""

    __slots__ = ()


Value: TypeAlias = "Word | str | int | bool | Mapping[str, Any] | Sequence[Any]"


def config_text(values: Mapping[str, Value]) -> str:
    """Write a message: a mapping is a message, a list is a repeated field, text is quoted.

    A list of numbers is written as `[1, 2]`. An empty list is written as `[ ]`, which `reshape { shape: [ ] }` needs.
    A map field is a list of `{"key": ..., "value": ...}`.
    """
    return "".join(f"{line}\n" for line in _lines(values, 0))


def _lines(values: Mapping[str, Value], depth: int) -> Iterator[str]:
    indent = "  " * depth
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield f"{indent}{name} {{"
            yield from _lines(value, depth + 1)
            yield f"{indent}}}"
        elif isinstance(value, str | bool | int):
            yield f"{indent}{name}: {_scalar(value)}"
        elif all(isinstance(entry, int) for entry in value):
            yield f"{indent}{name}: [ {', '.join(map(str, value))} ]" if value else f"{indent}{name}: [ ]"
        else:
            for entry in value:
                yield from _lines({name: entry}, depth)


def _scalar(value: str | bool | int) -> str:
    if isinstance(value, Word):
        return str(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    # the text format understands JSON's escapes, but text in it is bytes: other characters are escaped as UTF-8
    return _quoted(value) if isinstance(value, str) else str(value)


def _quoted(text: str) -> str:
    if text.isascii():
        return json.dumps(text)
    return '"' + "".join(_escaped(byte) for byte in text.encode("utf-8", "surrogatepass")) + '"'


def _escaped(byte: int) -> str:
    character = chr(byte)
    plain = 32 <= byte < 127 and character not in '"\\'
    return character if plain else f"\\{byte:03o}"
