"""Metrics in words: cut off where rounding would say too much, and only there."""

import pytest

from condinst_deploy.evaluation.wording import change_text, iou_text, metric_text, percent_text, points_text, small_text


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (1.0, "100.00 %"),
        (1 - 1e-6, "99.99 %"),
        (0.0003, "0.03 %"),  # as a float a little less
        (0.29, "29.00 %"),
        (0.57, "57.00 %"),
        (6 / 20000, "0.03 %"),
        (2 / 3, "66.66 %"),
        (1e-9, "0.00 %"),
        (0.0, "0.00 %"),
    ],
)
def test_shares_are_cut(share: float, text: str) -> None:
    assert percent_text(share) == text


@pytest.mark.parametrize(
    ("iou", "text"),
    [
        (1.0, "1.00000"),
        (1 - 1e-9, "0.99999"),
        (0.00003, "0.00003"),
        (0.57, "0.57000"),
        (1e-12, "0.00000"),
        (None, "\u2013"),
    ],
)
def test_ious_are_cut(iou: float | None, text: str) -> None:
    assert iou_text(iou) == text


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (-0.001, "0.00"),
        (0.001, "0.00"),
        (0.0, "0.00"),
        (-0.01, "-0.01"),
        (10.0, "+10.00"),
        (-10.0, "-10.00"),
        (None, ""),
    ],
)
def test_a_change_that_rounds_to_nothing_has_no_sign(change: float | None, text: str) -> None:
    assert change_text(change) == text


def test_a_metric_of_the_terminal_has_its_difference_in_brackets() -> None:
    assert metric_text((12.345, -0.001)) == "12.35 (0.00)"
    assert metric_text((12.0, -0.01)) == "12.00 (-0.01)"
    assert metric_text((None, None)) == "-"


def test_what_is_not_there_is_a_dash() -> None:
    assert (points_text(None), small_text(None)) == ("\u2013", "\u2013")
    assert (points_text(12.345678), small_text(0.00012345)) == ("12.35", "0.000123")
