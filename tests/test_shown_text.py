"""Text from files is shown, not obeyed."""

import pickle
import string
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from condinst_deploy.errors import ConfigError
from condinst_deploy.shown_text import LONGEST, shown, shown_value, told_apart

WORDS = "größe 大きさ \u0646\u200c\u0627 \U0001f468\u200d\U0001f373"
"""Two of them are written with joiners."""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain [red]text[/] :smile:", "plain [red]text[/] :smile:"),
        ("a\x1b]0;pwned\x07\nerror: all is well", r"a\x1b]0;pwned\x07\nerror: all is well"),
        ("a\rb\tc\x7fd\x9be", r"a\rb\tc\x7fd\x9be"),
        ("line\u2028paragraph\u2029next\x85", r"line\u2028paragraph\u2029next\x85"),
        ("abc\u202edef\u2066\u200f\u061c", r"abc\u202edef\u2066\u200f\u061c"),
        ("\ud800 \udcff", r"\ud800 \udcff"),
        ("\U000e0041\ufeff\u200b", r"\U000e0041\ufeff\u200b"),
        (WORDS, WORDS),
    ],
)
def test_what_a_terminal_would_obey_is_escaped(text: str, expected: str) -> None:
    assert shown(text) == expected


@given(st.text(st.characters(), max_size=200))
def test_any_text_is_one_line_that_can_be_printed(text: str) -> None:
    line = shown(text)
    assert line.splitlines() in ([line], [])
    assert line.encode("utf-8").decode("utf-8") == line
    assert not any(ord(c) < 32 or 127 <= ord(c) < 160 for c in line)


def test_a_long_text_keeps_its_beginning_and_its_end() -> None:
    line = shown("begin" + "x" * 10**6 + "end")
    assert line.startswith("begin")
    assert line.endswith("end")
    assert len(line) < LONGEST + 60
    assert "more characters" in line


def test_a_message_is_one_line_wherever_it_is_printed() -> None:
    error = ConfigError("no key a\nerror: all is well\x1b[2J")
    assert str(error) == r"no key a\nerror: all is well\x1b[2J"
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        ((0.05, 0.3), ("0.05", "0.3")),
        ((0.05, 0.05), ("0.05", "0.05")),
        ((0.05, 0.0499999999), ("0.05", "0.0499999999")),
        ((0.1 + 0.2, 0.3), ("0.30000000000000004", "0.29999999999999999")),
        ((100, 5), ("100", "5")),
        ((100.0000001, 0, 100), ("100.0000001", "0", "100")),
        ((10**400, 0, 100), ("a whole number of 1,329 bits", "0", "100")),
    ],
)
def test_different_numbers_of_a_message_look_different(numbers: tuple[float, ...], expected: tuple[str, ...]) -> None:
    assert told_apart(*numbers) == expected


def test_values_that_contain_themselves_many_times_are_cut_off() -> None:
    value: list[object] = ["x"]
    for _ in range(200):  # 2^200 entries as text
        value = [value, value]
    assert len(shown_value(value)) < 120
    assert len(shown_value({"a": value, "b": {"c": value}})) < 120


def test_endless_numbers_and_texts_are_described() -> None:
    assert shown_value(10**5000) == "a whole number of 16,610 bits"
    assert shown_value(-(10**5000)) == "a whole number of 16,610 bits"
    assert len(shown_value("a" * 10**7)) < 120
    assert len(shown_value(b"a" * 10**7)) < 120
    assert shown_value("a\n") == r"'a\n'"
    assert shown_value(0.5) == "0.5"
    assert shown_value(True) == "True"
    assert sys.get_int_max_str_digits() > len(string.digits)
