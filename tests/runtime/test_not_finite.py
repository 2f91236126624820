"""NaN and infinity of a network are an error, and never "nothing found"."""

from typing import Any

import numpy as np
import pytest
import torch

from condinst_deploy.contract import ImageGeometry, NetworkOutputs
from condinst_deploy.errors import BackendError
from condinst_deploy.runtime.postprocess import ResultFilter, detections_from_outputs
from tests.support.models import SLIM, manifest_of, seeded_model

SLOTS = 4


def outputs(**changes: Any) -> NetworkOutputs:
    boxes = np.tile(np.array([0, 0, 20, 20], np.float32), (1, SLOTS, 1))
    values = {
        "num_detections": np.array([2], np.int32),
        "boxes": boxes,
        "scores": np.array([[0.9, 0.8, 0, 0]], np.float32),
        "labels": np.zeros((1, SLOTS), np.int32),
        "mask_logits": np.ones((1, SLOTS, 8, 8), np.float32),
    }
    return NetworkOutputs(**(values | changes))


def found(given: NetworkOutputs) -> Any:
    manifest = manifest_of(SLIM)
    geometry = ImageGeometry.of((64, 64), manifest.preprocessing)
    logits = np.ones((1, SLOTS, geometry.padded[0] // 8, geometry.padded[1] // 8), np.float32)
    return detections_from_outputs(given._replace(mask_logits=logits), [geometry], manifest, ResultFilter())


def changed(name: str, index: tuple[int, ...], value: float) -> NetworkOutputs:
    given = outputs()
    array = getattr(given, name).copy()
    array[index] = value
    return given._replace(**{name: array})


def test_finite_outputs_are_detections() -> None:
    assert len(found(outputs())[0]) == 2


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(("name", "index"), [("scores", (0, 1)), ("scores", (0, 3)), ("boxes", (0, 1, 2))])
def test_a_score_or_a_box_that_is_not_finite_is_an_error(name: str, index: tuple[int, ...], value: float) -> None:
    with pytest.raises(BackendError, match="NaN or infinity"):
        found(changed(name, index, value))


def test_a_box_of_an_empty_slot_is_not_looked_at() -> None:
    assert len(found(changed("boxes", (0, 3, 0), np.nan))[0]) == 2


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (outputs(num_detections=np.array([SLOTS + 1], np.int32)), r"counts \[5\] detections in 4 slots"),
        (outputs(num_detections=np.array([-1], np.int32)), r"counts \[-1\] detections"),
        (outputs(labels=np.full((1, SLOTS), 77, np.int32)), "labels from 77 to 77; its manifest names 3 classes"),
        (outputs(boxes=np.zeros((1, SLOTS, 5), np.float32)), "have the shapes"),
        (outputs(labels=np.zeros((1, 9), np.int32)), "have the shapes"),
    ],
)
def test_numbers_that_the_contract_does_not_have_are_an_error(given: NetworkOutputs, message: str) -> None:
    with pytest.raises(BackendError, match=message):
        found(given)


@pytest.mark.parametrize("key", ["head.cls_tower.0.conv.weight", "head.box_tower.0.conv.weight"])
def test_a_tower_that_overflows_shows_in_the_scores_of_the_reference_model(key: str) -> None:
    model = seeded_model()
    images, sizes = torch.randint(0, 255, (2, 3, 64, 96), dtype=torch.uint8), torch.tensor([[64, 96], [64, 80]])
    assert model(images, sizes).scores.isfinite().all()
    weight = model.state_dict()[key]
    weight /= weight.abs().max()
    weight *= 1e38
    assert weight.isfinite().all()
    assert model(images, sizes).scores.isnan().all()
