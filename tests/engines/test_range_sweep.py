"""Random models of both families: each stays within float16's range and agrees with float32, or is refused by name."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest

from condinst_export.onnx_file import ExportOptions, onnx_from_model, with_options
from tests.engines.random_models import FEWEST_DETECTIONS, Outcome, outcome, random_model
from tests.support.models import SLIM, SLIM_BIFPN, TINY, TINY_ADELAIDET, manifest_of, seeded_model

MATCHED = 0.97
MODELS, MOST_REFUSED = 40, 5

SIDES: dict[str, Any] = {"short_side": 128, "long_side": 224}
KINDS = {
    "AdelaiDet, 1 class": replace(
        TINY_ADELAIDET, num_classes=1, preprocessing=replace(TINY_ADELAIDET.preprocessing, **SIDES)
    ),
    "mmdetection, 3 classes": SLIM,
    "AdelaiDet BiFPN, 20 classes": replace(SLIM_BIFPN, num_classes=20),
    "mmdetection, 80 classes": replace(TINY, num_classes=80, preprocessing=replace(TINY.preprocessing, **SIDES)),
}


@pytest.fixture(scope="module")
def exported() -> Callable[[str], onnx.ModelProto]:
    """Kind -> its exported graph, made when it is asked for."""
    made: dict[str, onnx.ModelProto] = {}

    def graph_of(kind: str) -> onnx.ModelProto:
        if kind not in made:
            model = seeded_model(KINDS[kind])
            manifest = with_options(model, manifest_of(KINDS[kind]), ExportOptions())
            made[kind] = onnx_from_model(model, manifest)
        return made[kind]

    return graph_of


def check(found: Outcome) -> None:
    if found.ranges is None:
        assert "node " in found.refusal
        assert " reaches " in found.refusal
        return
    assert found.agreement is not None
    assert found.agreement.reference_count >= FEWEST_DETECTIONS
    assert max(found.ranges.blocks.values()) < found.ranges.limit
    assert found.matched >= MATCHED, (found.agreement, str(found.ranges))


@pytest.mark.parametrize("seed", [1, 5])
def test_a_random_model_is_within_range_and_agrees_with_float32(seed: int, slim_proto: onnx.ModelProto) -> None:
    check(outcome(random_model(slim_proto, seed)))


@pytest.mark.slow
@pytest.mark.timeout(7200)  # 8 minutes of processor time; 42 minutes on a machine that was busy with other things
def test_forty_random_models(exported: Callable[[str], onnx.ModelProto]) -> None:
    found = [outcome(random_model(exported(list(KINDS)[seed % len(KINDS)]), seed)) for seed in range(MODELS)]
    for each in found:
        check(each)
    assert sum(each.ranges is None for each in found) <= MOST_REFUSED
    handled = [len(each.ranges.handled) for each in found if each.ranges is not None]
    assert np.count_nonzero(handled) >= 5  # otherwise the sweep would show nothing; 8 were measured
