"""The evaluation benchmark knows every stage that an observer sees."""

from benchmarks.evaluation import LABELS
from condinst_deploy.evaluation import evaluator
from condinst_deploy.runtime import observer


def test_each_stage_has_a_label() -> None:
    assert set(LABELS) == {*observer.STAGES, *evaluator.STAGES}
