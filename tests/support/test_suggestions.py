"""Suggestions: near names are found, far ones are not made up."""

import pytest

from condinst_deploy.support.suggestions import did_you_mean

KNOWN = ("person", "traffic light", "class a")


@pytest.mark.parametrize(
    ("given", "suggested"),
    [("Person", "person"), (" PERSON ", "person"), ("persn", "person"), ("traffic_light", "traffic light")],
)
def test_a_near_name_is_suggested_as_it_is_written(given: str, suggested: str) -> None:
    assert did_you_mean(given, KNOWN) == f". Did you mean {suggested!r}?"


@pytest.mark.parametrize("given", ["giraffe", "", 7, None, -1])
def test_of_what_is_near_to_none_nothing_is_said(given: object) -> None:
    assert did_you_mean(given, KNOWN) == did_you_mean("person", ()) == ""
