"""Every script of a fault that was found once prints PASS."""

from pathlib import Path

import pytest

from tests.support.cases import SCRIPTS, environment, run_case

SLOW = {
    "05_checkpoint_declares_network",
    "11_ctrl_c_does_not_stop",
    "13_markup_from_files",
    "14_fp16_of_the_shipped_model",
    "18_disk_full_tracebacks",
    "20_sigterm_litter",
    "31_network_without_end_is_stopped",
}
"""They take more than half a minute on two cores."""


def cases() -> list[object]:
    return [
        pytest.param(path, id=f"{path.parent.name}/{path.stem}", marks=[pytest.mark.slow] * (path.stem in SLOW))
        for path in SCRIPTS
    ]


@pytest.fixture(scope="session")
def variables(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return environment(tmp_path_factory.mktemp("cases"))


@pytest.mark.parametrize("script", cases())
def test_case(script: Path, variables: dict[str, str]) -> None:
    outcome = run_case(script, variables)
    if outcome.skipped:
        pytest.skip(outcome.skipped)
    assert outcome.passed, outcome.text


def test_all_scripts_are_found() -> None:
    assert len(SCRIPTS) >= 28
    assert {path.parent.name for path in SCRIPTS} >= {"attack", "reports"}
