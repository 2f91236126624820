"""Settings: what cannot work is refused, and plain dictionaries give them back."""

import math
from typing import Any

import pytest

from condinst_deploy.contract import Preprocessing, Selection
from condinst_deploy.errors import ConfigError


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"short_side": 0}, "short_side is 0; expected a whole number from 1 to 16384"),
        ({"short_side": 1334}, "short side 1334 and long side 1333"),
        ({"pad_divisor": 0}, "pad_divisor is 0; expected a whole number"),
        ({"pad_divisor": 16}, "pad_divisor is 16"),
        ({"pad_divisor": 48}, "pad_divisor is 48"),
        ({"mean": (1.0, 2.0)}, "expected three numbers each"),
        ({"std": (1.0, 2.0, 3.0, 4.0)}, "expected three numbers each"),
        ({"std": (1.0, 0.0, 1.0)}, r"std\[1\] is 0.0; expected a number above 0"),
        ({"std": (1.0, math.inf, 1.0)}, r"std\[1\] is inf; expected a number above 0"),
        ({"std": ("a", 1.0, 1.0)}, r"std\[0\] is 'a'; expected a number above 0"),
        ({"mean": (1.0, 2.0, math.nan)}, r"mean\[2\] is nan; expected a finite number"),
        ({"short_side": 30_000, "long_side": 50_000}, "short_side is 30000; expected a whole number from 1 to 16384"),
        ({"short_side": True}, "short_side is True; expected a whole number"),
        pytest.param({"long_side": 10**5000}, "long_side is a whole number of 16,610 bits; expected a", id="huge"),
        ({"family": "yolact"}, "family is 'yolact'; expected one of mmdet, adelaidet"),
    ],
)
def test_preprocessing_that_cannot_work_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Preprocessing(**values)


@pytest.mark.parametrize("values", [{"short_side": 1, "long_side": 1}, {"pad_divisor": 64}])
def test_preprocessing_at_the_limits_is_taken(values: dict[str, Any]) -> None:
    assert all(getattr(Preprocessing(**values), name) == value for name, value in values.items())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"score_threshold": -0.01}, "score_threshold is -0.01"),
        ({"score_threshold": 1.01}, "score_threshold is 1.01"),
        ({"score_threshold": math.nan}, "score_threshold is nan"),
        ({"nms_iou": 1.5}, "nms_iou is 1.5"),
        ({"candidates_per_level": 0}, "candidates_per_level is 0; expected"),
        ({"max_detections": 0}, "max_detections is 0; expected"),
        ({"max_detections": 10**9}, "max_detections is 1000000000; expected a whole number from 1 to 10000"),
        ({"nms_iou": True}, "nms_iou is True; expected a number from 0 to 1"),
        ({"family": None}, "family is None; expected one of mmdet, adelaidet"),
    ],
)
def test_selection_that_cannot_work_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Selection(**values)


@pytest.mark.parametrize(
    "values",
    [{"score_threshold": 0.0}, {"score_threshold": 1.0}, {"nms_iou": 0.0}, {"nms_iou": 1.0}, {"max_detections": 1}],
)
def test_selection_at_the_limits_is_taken(values: dict[str, Any]) -> None:
    assert all(getattr(Selection(**values), name) == value for name, value in values.items())


def test_the_lowest_score_is_on_the_scale_of_the_scores() -> None:
    assert Selection().lowest_score == 0.05
    assert Selection(family="adelaidet").lowest_score == pytest.approx(0.2236068)


def test_settings_of_unknown_names_are_refused() -> None:
    with pytest.raises(ConfigError, match="unknown settings pad, bgr; expected one of mean, std, short_side"):
        Preprocessing.from_dict({"pad": 1, "bgr": True, "short_side": 640})
    with pytest.raises(ConfigError, match="unknown setting topk; expected one of score_threshold"):
        Selection.from_dict({"topk": 1})


def test_settings_that_are_not_named_keep_their_defaults() -> None:
    assert Preprocessing.from_dict({"short_side": 640}) == Preprocessing(short_side=640)
    assert Preprocessing.from_dict({"mean": [1, 2, 3]}) == Preprocessing(mean=(1.0, 2.0, 3.0))
    assert Selection.from_dict({}) == Selection()


def test_from_dict_leaves_its_argument_alone() -> None:
    values: dict[str, Any] = {"mean": [1, 2, 3]}
    Preprocessing.from_dict(values)
    assert values == {"mean": [1, 2, 3]}
