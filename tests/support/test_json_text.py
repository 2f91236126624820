"""NaN and infinity are never written."""

import ast
import json
from pathlib import Path

import pytest

from condinst_deploy.errors import OutputError
from condinst_deploy.support.json_text import finite_or_none, json_text, json_value

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("value", "named"),
    [
        ({"a": [1, {"b": float("nan")}]}, "a.1.b is nan"),
        ([float("inf")], "0 is inf"),
        (float("-inf"), "it is -inf"),
        ({"a\n": float("nan")}, r"a\\n is nan"),
    ],
)
def test_a_number_that_json_lacks_is_named(value: object, named: str) -> None:
    with pytest.raises(OutputError, match=rf"the summary cannot be written as JSON: {named}; expected finite"):
        json_text(value, "the summary")


def test_values_come_back_as_they_were() -> None:
    value = {"b": [1, 2.5, None, "\ud800\n\x1b"], "a": True}
    for indent in (None, 2):
        text = json_text(value, "x", indent=indent)
        assert json.loads(text) == value
        assert text.isascii()
    assert json_text({"b": 1, "a": 2}, "x", sort_keys=True) == '{"a":2,"b":1}'


def test_what_is_not_finite_is_null_where_it_is_asked_for() -> None:
    assert [finite_or_none(x) for x in (1.5, float("nan"), float("inf"))] == [1.5, None, None]


@pytest.mark.parametrize("package", ["condinst_deploy", "export", "engines"])
def test_all_json_is_written_by_this_function(package: str) -> None:
    writers = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in sorted((ROOT / package).rglob("*.py"))
        if path.name != "json_text.py"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr in ("dump", "dumps") and ast.unparse(node.value) == "json"
    ]
    assert writers == []


def test_a_number_that_python_does_not_read_has_as_many_digits() -> None:
    digits = 5_000
    found = json_value('{"a": -' + "7" * digits + ', "b": 12, "c": [0.5]}')
    assert found == {"a": -(10 ** (digits - 1)), "b": 12, "c": [0.5]}
    assert json_value("1" * 10**6) == 10**10_000


def test_what_is_no_json_says_why() -> None:
    with pytest.raises(ValueError, match="nested too deeply"):
        json_value("[" * 100_000)
    with pytest.raises(ValueError, match="nested too deeply"):
        json_value("[" + "1" * 5_000 + "," + "[" * 100_000)
    with pytest.raises(ValueError, match="Expecting property name"):
        json_value("{1")
