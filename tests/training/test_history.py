"""What a run says of itself: its best evaluation, and its curves."""

import numpy as np
import pytest

from condinst_deploy.training.history import Record, best_of, curves_figure


def evaluation(iteration: int, mask: float | None, box: float = 0.5) -> Record:
    scores = {"bbox/ap": box, "bbox/ap50": box}
    return {"iteration": iteration} | scores | ({} if mask is None else {"segm/ap": mask, "segm/ap50": mask})


def test_the_best_evaluation_is_the_first_with_the_highest_score() -> None:
    losses: Record = {"iteration": 3, "loss/total": 1.0}
    found = best_of([evaluation(1, 0.1, 0.9), losses, evaluation(2, 0.3), evaluation(3, 0.3), evaluation(4, 0.2)])
    assert found is not None
    assert found["iteration"] == 2
    boxes = best_of([evaluation(1, None, 0.1), evaluation(2, None, 0.2)])
    assert boxes is not None
    assert boxes["iteration"] == 2
    assert best_of([losses]) is None
    assert best_of([evaluation(1, -1.0, -1.0)]) is None  # nothing is annotated: no best.pth is written


@pytest.mark.parametrize("points", [1, 2])
def test_a_curve_of_one_point_is_visible(points: int) -> None:
    records: list[Record] = [{"iteration": i, "loss/total": 2.0, "loss/cls": 1.0} for i in range(points)]
    losses, precision = curves_figure([*records, evaluation(points, 0.4)]).axes
    (line,) = losses.lines
    assert len(np.asarray(line.get_xdata())) == points
    assert (line.get_marker() == "o") == (points == 1)
    assert [curve.get_marker() for curve in precision.lines] == ["o", "o"]
