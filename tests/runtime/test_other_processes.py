"""Errors of a `Predictor` in a forked process, and for options of a wrong type."""

import copy
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from condinst_deploy import Predictor
from condinst_deploy.errors import BackendError, ConfigError
from condinst_deploy.runtime.predictor_options import PredictorOptions


@pytest.fixture
def predictor(slim_checkpoint: Path) -> Predictor:
    return Predictor(slim_checkpoint, device="cpu")


def test_a_forked_process_must_load_the_model_itself(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    image = np.zeros((64, 64, 3), np.uint8)
    predictor(image)
    own = os.getpid()
    monkeypatch.setattr(os, "getpid", lambda: own + 1)
    with pytest.raises(BackendError, match="start processes with multiprocessing's method 'spawn'"):
        predictor(image)
    with pytest.raises(BackendError, match="load the model in the process that uses it"):
        next(predictor.stream([image]))


def test_a_predictor_cannot_be_pickled_and_says_what_to_do(predictor: Predictor) -> None:
    for attempt in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(ConfigError, match="pass the path of the model's file to the other process"):
            attempt(predictor)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"score_threshold": "0.5"}, "score_threshold is '0.5'; expected a number or None"),
        ({"device": None}, "device is None; expected text"),
        ({"max_detections": 2.5}, "max_detections is 2.5; expected a whole number or None"),
        ({"batch_size": True}, "batch_size is True; expected a whole number or None"),
        ({"batch_size": "4"}, "batch_size is '4'"),
        ({"classes": 1.5}, "classes is 1.5; expected a list, of each part text or a whole number"),
        ({"inputs": "exact"}, "inputs is 'exact'; expected InputOptions"),
        ({"threads": 4}, "threads is 4; expected CpuThreads or None"),
    ],
)
def test_options_of_a_wrong_type_are_named_before_the_model_is_loaded(option: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        PredictorOptions(**option)


def test_numbers_of_numpy_are_numbers() -> None:
    PredictorOptions(score_threshold=np.float32(0.5), max_detections=np.int64(3), batch_size=np.int32(2))  # type: ignore[arg-type]
