"""Which shapes become hot, and when."""

from collections.abc import Iterable
from itertools import pairwise

from condinst_deploy.runtime.hot_shapes import HotLimits, HotShapes


def heated(shapes: Iterable[str], limits: HotLimits) -> list[tuple[int, str, str | None]]:
    """(run, shape that becomes hot, shape that is no longer hot)."""
    hot, changes = HotShapes[str](limits), []
    for run, shape in enumerate(shapes):
        if hot.came(shape, 1, shape.lower()):
            changes.append((run, shape, hot.heat(shape)))
    return changes


def test_in_the_warm_up_the_second_run_of_a_shape_makes_it_hot() -> None:
    assert heated("abcabca", HotLimits(warm_up=100)) == [(3, "a", None), (4, "b", None), (5, "c", None)]


def test_in_the_warm_up_other_batches_of_a_size_that_came_are_hot_at_once() -> None:
    """A letter is a size of image, its case is the size of the batch."""
    assert heated("aAbaB", HotLimits(warm_up=100)) == [(1, "A", None), (3, "a", None), (4, "B", None)]
    behind = heated("xaAaA" + "A" * 20, HotLimits(warm_up=1, credit=0, gap=0, pause=10))
    assert behind == [(10, "A", None)]


def test_behind_the_warm_up_the_frequent_ones_come_first_and_then_few() -> None:
    limits = HotLimits(warm_up=0, credit=3, gap=5, pause=1000)
    changes = heated("abcdef" * 100, limits)
    assert len(changes) == 3
    runs = [run for run, _, _ in changes]
    assert all(later - earlier >= 5 for earlier, later in pairwise(runs))


def test_there_are_no_more_hot_shapes_than_allowed() -> None:
    assert heated("aabbccdd", HotLimits(most=2, warm_up=100)) == [(1, "a", None), (3, "b", None)]
    assert heated("aabb", HotLimits(most=0, warm_up=100)) == []


def test_after_the_warm_up_shapes_become_hot_with_pauses() -> None:
    changes = heated("ab" * 50, HotLimits(warm_up=0, credit=0, gap=0, pause=10))
    assert [(shape, gone) for _, shape, gone in changes] == [("b", None), ("a", None)]
    assert changes[1][0] - changes[0][0] >= 10


def test_a_rare_shape_waits_while_a_frequent_one_is_not_hot() -> None:
    changes = heated("xx" + "yyyyyyyy" + "xy" * 3, HotLimits(warm_up=0, credit=0, gap=0, pause=10))
    assert changes[0][1] == "y"


def test_a_shape_that_is_far_more_frequent_takes_the_place_of_the_coldest() -> None:
    limits = HotLimits(most=2, warm_up=4, credit=0, gap=0, pause=4, hotter=3)
    assert heated("aabb" + "ab" + "c" * 12, limits) == [(1, "a", None), (3, "b", None), (14, "c", "a")]


def test_counts_of_long_ago_are_forgotten() -> None:
    limits = HotLimits(most=1, warm_up=2, credit=0, gap=0, pause=1, hotter=3, memory=50)
    changes = heated("a" * 100 + "b" * 100, limits)
    assert [(shape, gone) for _, shape, gone in changes] == [("a", None), ("b", "a")]
