"""What an evaluation that fails leaves beside the files of an earlier one."""

from dataclasses import replace
from pathlib import Path

import pytest

from condinst_deploy.errors import DataError
from condinst_deploy.evaluation.evaluate_models import EvaluationHooks
from condinst_deploy.evaluation.evaluate_models import evaluate as evaluate_models
from condinst_deploy.evaluation.sources import EvaluationOptions
from tests.support.evaluations import data_set

pytestmark = pytest.mark.usefixtures("one_thread")


def test_an_evaluation_that_fails_says_which_results_lie_beside_the_metrics_of_an_earlier_one(
    slim_onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes: list[str] = []
    data = data_set(tmp_path, 2)
    options, hooks = EvaluationOptions(tmp_path / "out", "cpu", limit=2), EvaluationHooks(on_note=notes.append)
    evaluate_models(*data, [slim_onnx], options=options, hooks=hooks)
    before = (tmp_path / "out" / "figures.json").read_bytes()

    def broken(*_: object) -> None:
        raise DataError("it fails")

    monkeypatch.setattr("condinst_deploy.evaluation.evaluate_models.figures_json", broken)
    with pytest.raises(DataError):
        evaluate_models(*data, [slim_onnx], options=options, hooks=hooks)
    assert notes == [
        f"this evaluation failed: in {tmp_path / 'out'} it replaced {slim_onnx.name}.results.json; figures.json and"
        " report.html are of an earlier one"
    ]
    assert (tmp_path / "out" / "figures.json").read_bytes() == before
    # nothing to say where there was no earlier one
    notes.clear()
    with pytest.raises(DataError):
        evaluate_models(*data, [slim_onnx], options=replace(options, out=tmp_path / "new"), hooks=hooks)
    assert notes == []
