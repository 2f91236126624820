"""Strategies that damage bytes and structures: cut and overwritten bytes, values of odd types and sizes."""

import copy
import json
import struct
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

Strategy = st.SearchStrategy

DEEP, BIG, MANY = "@@deep@@", "@@big@@", "@@many@@"
"""Stand-ins for values that `json.dumps` cannot write."""

PAYLOADS = [
    b"\x00",
    b"\xff\xff\xff\xff",
    b"\x7f\xff\xff\xff",
    b"\xff\xff\xff\x7f",
    struct.pack(">I", 30_000),
    struct.pack("<I", 30_000),
    struct.pack("<Q", 1 << 62),
    b"\x1b]0;title\x07",
    b"\r\nerror: forged",
    b"\xef\xbb\xbf",
    "\u202e".encode(),
]

VALUES: list[Any] = [
    None,
    True,
    False,
    0,
    1,
    -1,
    2,
    7,
    -(2**31),
    2**31,
    2**53 + 1,
    2**63,
    2**64,
    10**30,
    10**400,
    0.5,
    -0.5,
    1e-300,
    1e300,
    float("nan"),
    float("inf"),
    float("-inf"),
    "",
    "0",
    "1.0",
    "nan",
    "a",
    "\x1b]0;title\x07",
    "a\nerror: forged",
    "[/nope]",
    "\ud800",
    "\u202e",
    "../../outside",
    "/etc/passwd",
    "x" * 300,
    "x" * 100_000,
    [],
    {},
    [[]],
    [None],
    [0, 0, 0],
    [1.5, "a"],
    {"a": 1},
    {"counts": "1", "size": [1, 1]},
    [[0, 0, 1e9, 0, 1e9, 1e9]],
    DEEP,
    BIG,
    MANY,
]


def damaged(content: bytes) -> Strategy[bytes]:
    """The bytes after one to five changes."""
    at = st.one_of(st.integers(0, 64), st.integers(0, max(1, len(content))))
    payload = st.one_of(st.sampled_from(PAYLOADS), st.binary(min_size=1, max_size=8))
    change = st.tuples(st.sampled_from(sorted(BYTE_CHANGES)), at, payload)
    return st.lists(change, min_size=1, max_size=5).map(lambda changes: _damage(content, changes))


def _damage(content: bytes, changes: list[tuple[str, int, bytes]]) -> bytes:
    for name, at, payload in changes:
        content = BYTE_CHANGES[name](content, at, payload)
    return content


BYTE_CHANGES: dict[str, Callable[[bytes, int, bytes], bytes]] = {
    "cut": lambda content, at, _: content[:at],
    "drop": lambda content, at, payload: content[:at] + content[at + len(payload) :],
    "insert": lambda content, at, payload: content[:at] + payload + content[at:],
    "overwrite": lambda content, at, payload: content[:at] + payload + content[at + len(payload) :],
    "overwrite again": lambda content, at, payload: content[:at] + payload + content[at + len(payload) :],
    "repeat": lambda content, at, payload: content[:at] + content[at : at + 64] * payload[0] + content[at:],
}


def changed(document: Any, values: list[Any] = VALUES) -> Strategy[Any]:
    """The document, of dictionaries and lists, after one to four changes."""
    change = st.tuples(
        st.sampled_from(["replace", "replace", "replace", "delete", "rename", "repeat", "swap", "scale"]),
        st.integers(0, 10_000),
        st.sampled_from(values),
    )
    return st.lists(change, min_size=1, max_size=4).map(lambda changes: _change(document, changes))


def _change(document: Any, changes: list[tuple[str, int, Any]]) -> Any:
    holder = [copy.deepcopy(document)]
    for name, number, value in changes:
        places = _places(holder)
        container, key = places[number % len(places)]
        if name == "delete" and container is not holder:
            del container[key]
        elif name == "rename" and isinstance(container, dict):
            container[value if isinstance(value, str) else f"{key}s"] = container.pop(key)
        elif name == "repeat" and isinstance(container, list):
            container.extend([copy.deepcopy(container[key])] * (number % 50))
        elif name == "swap":
            other, place = places[(number * 7 + 3) % len(places)]
            if not isinstance(other[place], dict | list) and not isinstance(container[key], dict | list):
                container[key], other[place] = other[place], container[key]
        elif name == "scale" and type(container[key]) in (int, float):
            container[key] *= (-1, 1000, 10**6, 0)[number % 4]
        else:
            container[key] = copy.deepcopy(value)
    return holder[0]


def _places(document: Any) -> list[tuple[Any, Any]]:
    """Every place in the document: its container and its key there; parts that are shared count once."""
    found, waiting, seen = [], [document], {id(document)}
    while waiting:
        container = waiting.pop()
        for key, value in container.items() if isinstance(container, dict) else enumerate(container):
            found.append((container, key))
            if isinstance(value, dict | list) and id(value) not in seen:
                seen.add(id(value))
                waiting.append(value)
    return found


def json_bytes(document: Any) -> bytes:
    """The document as JSON that a careless writer makes: NaN, lone surrogates, huge numbers, deep nesting."""
    text = json.dumps(document)
    text = text.replace(f'"{DEEP}"', "[" * 100_000 + "]" * 100_000, 1)
    text = text.replace(f'"{BIG}"', "1" * 5000)
    many = json.dumps({f"unknown {i}": i for i in range(20_000)}) if MANY in text else ""
    return text.replace(f'"{MANY}"', many, 1).encode()


def json_files(document: Any) -> Strategy[bytes]:
    """A JSON file of a changed document; one in eight is damaged as bytes instead."""
    structural = changed(document).map(json_bytes)
    return st.integers(0, 7).flatmap(lambda n: structural if n else damaged(json_bytes(document)))
