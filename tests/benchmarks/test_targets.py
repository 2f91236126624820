"""The form of results that every benchmark shares."""

import json
from pathlib import Path

import pytest

from benchmarks.machine import machine
from benchmarks.targets import Target, read_targets, write_results

METRICS = [
    Target.at_least("paste and RLE", 23.456789, 20, "x"),
    Target.at_most("network", 1.0512345, 1.05, "of eager's time"),
    Target.without("threads", 2, ""),
]


def test_a_target_says_what_was_asked_and_whether_it_was_met() -> None:
    assert [(target.measured, target.target, target.met) for target in METRICS] == [
        (23.46, "at least 20", True),
        (1.051, "at most 1.05", False),
        (2, "", None),
    ]


@pytest.mark.parametrize("limit", [20.0, 20.5])
def test_the_limit_itself_meets_the_target(limit: float) -> None:
    assert Target.at_least("a", 20.5, limit, "x").met
    assert Target.at_most("a", 20.0, limit, "x").met


def test_rounding_does_not_decide() -> None:
    assert not Target.at_least("a", 19.9999, 20, "x").met


def test_files_come_back_with_their_machine(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_results(path, METRICS, {"seed": 0})
    content = json.loads(path.read_text())
    assert list(content) == ["machine", "targets", "seed"]
    assert content["machine"]["cores"] >= 1
    assert read_targets(path) == METRICS


@pytest.mark.parametrize("content", [[], {}, {"targets": {"a": 1}}, {"targets": [{"name": "no figure"}, 3]}])
def test_another_form_has_no_targets(content: object, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps(content))
    assert read_targets(path) == []


def test_a_machine_without_git_has_no_commit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert machine(())["commit"] == ""
