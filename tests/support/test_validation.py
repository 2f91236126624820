"""Plain data become dataclasses; what cannot be used gives one line: its place, its value, what was expected."""

import math
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from condinst_deploy.errors import ConfigError, SettingError
from condinst_deploy.shown_text import shown_value
from condinst_deploy.support.validation import (
    Limits,
    check_choice,
    check_number,
    known_part,
    merged,
    printable,
    typed,
)


@dataclass(frozen=True)
class Inner:
    count: int = 1
    share: float = 0.5
    kind: Literal["a", "b"] = "a"
    pair: tuple[float, float] = (1.0, 2.0)
    steps: tuple[int, ...] = ()
    limit: float | None = None

    def __post_init__(self) -> None:
        check_number("share", self.share, Limits(0, 1))


@dataclass(frozen=True)
class Outer:
    name: str
    inner: Inner = field(default_factory=Inner)
    others: tuple[Inner, ...] = ()
    named: Mapping[str, Inner] = field(default_factory=dict)
    sizes: Mapping[str, int] = field(default_factory=dict)
    maybe: Inner | None = None


def nested_lists(levels: int) -> Any:
    """10 ** levels leaves, when written out; a few hundred bytes in memory."""
    value: Any = [1]
    for _ in range(levels):
        value = [value] * 10
    return value


@dataclass(frozen=True)
class Checked:
    share: float = 0.5
    text: str = ""

    def __post_init__(self) -> None:
        check_number("checked.share", self.share, Limits(0, 1))
        if self.text == "no field":
            raise ConfigError("text is what this begins with, and no field is meant")
        if self.text == "field":
            raise SettingError("text", "is 'field'; expected another")


@dataclass(frozen=True)
class Holder:
    checked: Checked = field(default_factory=Checked)
    share: tuple[Inner, ...] = ()


@pytest.mark.parametrize(
    ("values", "where", "message"),
    [
        ({"checked": {"share": 2}}, "", "checked.share is 2.0; expected a number from 0 to 1"),
        ({"checked": {"share": 2}}, "top", "top.checked.share is 2.0; expected a number from 0 to 1"),
        ({"checked": {"text": "field"}}, "top", "top.checked.text is 'field'; expected another"),
        ({"checked": {"text": "no field"}}, "", "checked: text is what this begins with, and no field is meant"),
        ({"share": [{}, {"share": 3}]}, "", "share[1].share is 3.0; expected a number from 0 to 1"),
    ],
)
def test_what_a_dataclass_refuses_has_the_place_of_the_setting_that_it_names(
    values: Any, where: str, message: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        typed(values, Holder, where)
    assert str(refused.value) == message


def test_the_error_of_a_setting_crosses_processes() -> None:
    error = pickle.loads(pickle.dumps(SettingError("a.b", "is 3;\nexpected 4")))
    assert (error.setting, error.problem) == ("a.b", "is 3;\nexpected 4")
    assert str(error) == "a.b is 3;\\nexpected 4"


def test_plain_data_become_the_dataclasses() -> None:
    values = {
        "name": "x",
        "inner": {"count": 2, "share": 1, "pair": [1, 2], "steps": (3, 4), "limit": None},
        "others": [{}, {"kind": "b"}],
        "named": {"p": {"limit": 0.5}},
        "sizes": {"s": 3},
        "maybe": {"count": 7},
    }
    found = typed(values, Outer)
    assert found == Outer(
        "x",
        Inner(2, 1.0, pair=(1.0, 2.0), steps=(3, 4)),
        (Inner(), Inner(kind="b")),
        {"p": Inner(limit=0.5)},
        {"s": 3},
        Inner(7),
    )
    assert isinstance(found.inner.share, float)  # a whole number may stand for a fraction


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (3, "the data is 3; expected a table of settings"),
        ({}, "name is missing"),
        ({"name": 1}, "name is 1; expected text"),
        ({"name": None}, "name is None; expected text"),
        ({"inner": {"count": True}}, "inner.count is True; expected a whole number"),
        ({"inner": {"count": 1.0}}, "inner.count is 1.0; expected a whole number"),
        ({"inner": {"count": "1"}}, "inner.count is '1'; expected a whole number"),
        ({"inner": {"share": "x"}}, "inner.share is 'x'; expected a number"),
        ({"inner": {"share": 1.5}}, "share is 1.5; expected a number from 0 to 1"),  # of __post_init__
        ({"inner": {"kind": "c"}}, "inner.kind is 'c'; expected one of a, b"),
        ({"inner": {"kind": []}}, "inner.kind is []; expected one of a, b"),
        ({"inner": {"pair": [1, 2, 3]}}, "inner.pair is [1, 2, 3]; expected a list of 2 numbers"),
        ({"inner": {"pair": 1}}, "inner.pair is 1; expected a list of 2 numbers"),
        ({"inner": {"pair": [1, "x"]}}, "inner.pair[1] is 'x'; expected a number"),
        ({"inner": {"steps": "ab"}}, "inner.steps is 'ab'; expected a list of whole numbers"),
        ({"inner": {"limit": "x"}}, "inner.limit is 'x'; expected a number or nothing"),
        ({"others": [{}, {"count": {}}]}, "others[1].count is {}; expected a whole number"),
        ({"named": {"p q": {"count": 0.5}}}, "named.'p q'.count is 0.5; expected a whole number"),
        ({"named": []}, "named is []; expected a table of settings"),
        ({"sizes": {"s": "big"}}, "sizes.s is 'big'; expected a whole number"),
        ({"maybe": 1}, "maybe is 1; expected a table of settings or nothing"),
        ({"others": {}}, "others is {}; expected a list of tables of settings"),
        ({"inner": {"share": math.nan}}, "inner.share is nan; expected a finite number"),
        ({"inner": {"share": -math.inf}}, "inner.share is -inf; expected a finite number"),
        ({"inner": {"count": 2**63}}, f"inner.count is {2**63}; expected a whole number of at most 64 bits"),
        pytest.param(
            {"inner": {"count": 10**5000}},
            "inner.count is a whole number of 16,610 bits; expected a whole number of at",
            id="huge",
        ),
        ({"name": "a\ud800"}, "name is 'a\\ud800'; expected text in Unicode, without lone surrogates"),
        ({"name": object()}, "name is <object>; expected text"),
    ],
)
def test_the_value_that_cannot_be_used_is_named_with_its_place(values: Any, message: str) -> None:
    values = {"name": "x"} | values if isinstance(values, dict) and values else values
    with pytest.raises(ConfigError) as refused:
        typed(values, Outer)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"nam": "x"}, "unknown setting nam; expected one of name, inner, .*Did you mean 'name'"),
        ({"name": "x", "inner": {"cuont": 1}}, r"unknown setting inner\.cuont; .*Did you mean 'count'"),
        ({"name": "x", "others": [{"z": 1}]}, r"unknown setting others\[0\]\.z; expected one of count, share"),
        ({"name": "x", "named": {"p": {"z": 1}}}, r"unknown setting named\.p\.z"),
        ({"name": "x", "maybe": {"z": 1}}, r"unknown setting maybe\.z"),
        ({"name": "x", 3: 4}, "unknown setting 3;"),
        ({"name": "x", "a\ud800": 4}, r"unknown setting 'a\\ud800';"),
        ({"name": "x", "n" * 100_000: 4}, "unknown setting 'nnn"),
    ],
)
def test_an_unknown_setting_is_named_with_what_may_have_been_meant(values: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as refused:
        typed(values, Outer)
    assert len(str(refused.value)) < 400


def test_of_many_unknown_settings_the_first_twenty_are_named_and_the_others_counted() -> None:
    values = {"name": "x"} | {f"s{i}": i for i in range(1_000)}
    with pytest.raises(ConfigError, match=r"unknown settings s0, s1, .*s19 and 980 more; expected") as refused:
        typed(values, Outer)
    assert "s20" not in str(refused.value)


def test_of_200_000_unknown_settings_the_rest_is_a_number() -> None:
    with pytest.raises(ConfigError, match=r"unknown settings s0, .*s19 and 199980 more; expected") as refused:
        typed({"name": "x"} | {f"s{i}": i for i in range(200_000)}, Outer)
    assert len(str(refused.value)) < 400


def test_settings_that_later_versions_add_can_be_left_out() -> None:
    values = {"name": "x", "new": "\ud800", "inner": {"count": 2, "new": 1}, "others": [{"new": {}}, 3]}
    assert known_part(values, Outer) == {"name": "x", "inner": {"count": 2}, "others": [{}, 3]}
    assert known_part(7, Outer) == 7


def deep(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize("levels", [17, 100_000])
def test_deep_nesting_is_one_line(levels: int) -> None:
    with pytest.raises(ConfigError, match="is nested deeper than 16 levels") as refused:
        typed({"name": deep(levels)}, Outer)
    assert len(str(refused.value)) < 200


def test_lists_that_share_their_entries_are_looked_at_once() -> None:
    with pytest.raises(ConfigError, match=r"^name is .*; expected text$") as refused:
        typed({"name": nested_lists(12)}, Outer)  # 10 ** 12 leaves
    assert len(str(refused.value)) < 200


def test_what_is_merged_keeps_the_rest_of_the_default() -> None:
    default = Outer("x", Inner(count=5, share=0.25), sizes={"s": 1})
    assert merged(default, {"inner": {"count": 6}}) == Outer("x", Inner(count=6, share=0.25), sizes={"s": 1})
    assert merged(default, {}) == default
    with pytest.raises(ConfigError, match=r"inner\.count is 'x'; expected a whole number"):
        merged(default, {"inner": {"count": "x"}})
    with pytest.raises(ConfigError, match="inner is 3; expected a table of settings"):
        merged(default, {"inner": 3})
    with pytest.raises(ConfigError, match="the data is None; expected a table of settings"):
        merged(default, None)
    with pytest.raises(ConfigError, match="unknown setting zzz"):
        merged(default, {"zzz": 3})


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
NAMES = st.sampled_from(
    ["name", "inner", "others", "named", "sizes", "maybe", "count", "share", "kind", "pair", "steps"]
)


@given(st.dictionaries(NAMES | st.text(max_size=4), PLAIN | st.dictionaries(NAMES, PLAIN), max_size=4))
@settings(deadline=None, derandomize=True, max_examples=300)
def test_any_plain_data_are_taken_or_refused_in_one_line(values: Any) -> None:
    try:
        typed(values, Outer)
    except ConfigError as e:
        message = str(e)
        assert "\n" not in message
        message.encode()
        assert len(message) < 2_000


@pytest.mark.parametrize(
    ("value", "limits", "expected"),
    [
        (0, Limits(1, whole=True), "a whole number of at least 1"),
        (1.0, Limits(1, whole=True), "a whole number of at least 1"),
        (True, Limits(0, 5), "a number from 0 to 5"),
        (0, Limits(0, open=True), "a number above 0"),
        (1, Limits(0, 1, below=True), "a number from 0 to below 1"),
        (math.nan, Limits(), "a finite number"),
        (math.inf, Limits(0), "a number of at least 0"),
        ("1", Limits(0, 1), "a number from 0 to 1"),
        (None, Limits(0, 1), "a number from 0 to 1"),
    ],
)
def test_a_number_outside_its_limits_is_refused(value: object, limits: Limits, expected: str) -> None:
    with pytest.raises(ConfigError) as refused:
        check_number("x", value, limits)
    assert str(refused.value) == f"x is {value!r}; expected {expected}"


@pytest.mark.parametrize(
    ("value", "limits"),
    [(1, Limits(1, whole=True)), (0, Limits(0, 1)), (1, Limits(0, 1)), (0.5, Limits(0, 1, open=True, below=True))],
)
def test_a_number_at_its_limits_is_taken(value: float, limits: Limits) -> None:
    check_number("x", value, limits)


def test_a_choice_is_compared_with_its_type() -> None:
    check_choice("x", 1, Literal[1, "a"])
    for value in (True, 1.0, "b", [1], None):
        with pytest.raises(ConfigError, match="expected one of 1, a"):
            check_choice("x", value, Literal[1, "a"])


class Broken:
    def __repr__(self) -> str:
        raise RuntimeError


LONG: dict[str, object] = {
    "text": "x" * 10**6,
    "a list": list(range(10**6)),
    "a table": {i: i for i in range(1000)},
    "an integer": 10**5000,
    "an object": Broken(),
    "shared lists": nested_lists(12),
    "deep lists": deep(9999),
}


@pytest.mark.parametrize("value", LONG.values(), ids=LONG)
def test_a_value_is_shortened_whatever_it_is(value: object) -> None:
    assert len(shown_value(value)) < 200


def test_text_of_undecodable_names_becomes_printable() -> None:
    assert printable("a\udcff") == "a\\udcff"
    assert printable("Größe") == "Größe"
