"""Percentiles and ratios on numbers that can be worked out by hand."""

import pytest

from condinst_deploy.benchmarking.statistics import Distribution, Ratio


def test_percentiles_of_a_hundred_and_one_times() -> None:
    seconds = [i / 1000 for i in range(101)][::-1]
    assert Distribution.of(seconds) == Distribution(median_ms=50, p95_ms=95, p99_ms=99)


def test_percentiles_lie_between_the_two_nearest_times() -> None:
    assert Distribution.of([0.001, 0.003]) == Distribution(median_ms=2, p95_ms=2.9, p99_ms=2.98)


def test_one_call_is_all_percentiles() -> None:
    assert Distribution.of([0.25]) == Distribution(250, 250, 250)


def test_a_constant_ratio_has_no_interval() -> None:
    """Both slow down together over the run; the ratio knows nothing of it."""
    others = [1.0, 2.0, 4.0, 8.0]
    assert Ratio.of([0.75 * other for other in others], others) == Ratio(0.75, 0.75, 0.75)


def test_the_ratio_is_of_pairs_and_not_of_medians() -> None:
    # medians are 2 and 2; pair by pair the first takes half, half and three times as long
    assert Ratio.of([1.0, 2.0, 3.0], [2.0, 4.0, 1.0]).median == 0.5


def test_the_interval_holds_the_median_and_is_the_same_for_the_same_seed() -> None:
    seconds, others = [1.0 + i / 50 for i in range(40)], [1.0] * 40
    ratio = Ratio.of(seconds, others)
    assert ratio.median == pytest.approx(1.39)
    # the bootstrap's standard error of a median of n uniform values is about range / (2 sqrt(n)) = 0.06
    assert 1.2 < ratio.low < 1.33
    assert 1.45 < ratio.high < 1.58
    assert Ratio.of(seconds, others) == ratio


def test_turning_the_models_round_turns_the_ratio_round() -> None:
    seconds, others = [1.0, 2.0, 3.0, 5.0, 4.0], [2.0, 5.0, 4.0, 8.0, 10.0]
    there, back = Ratio.of(seconds, others), Ratio.of(others, seconds)
    assert (back.median, back.low, back.high) == pytest.approx(
        (1 / there.median, 1 / there.high, 1 / there.low), rel=1e-3
    )
