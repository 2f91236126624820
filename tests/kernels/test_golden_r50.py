"""The kernels, interpreted, on what the full-size network gives for an image: the reference's detections.

One image goes through the network with fixed slots in PyTorch. What it hands to selection and mask head is kept, and
given to the kernels' own text; runs of the masks are found from the logits as a GPU finds them.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from condinst_deploy.contract import ImageGeometry, InstanceDetections, ModelManifest, NetworkOutputs
from condinst_deploy.evaluation.agreement import agreement
from condinst_deploy.imaging.decode import rgb_from
from condinst_deploy.model.checkpoints import load_model
from condinst_deploy.model.condinst import CondInst, Instances
from condinst_deploy.model.fixed_slots import FixedSlots
from condinst_deploy.model.operations import REFERENCE
from condinst_deploy.runtime.postprocess import ResultFilter, detections_from_outputs
from condinst_deploy.runtime.preprocessing.batch import network_inputs
from tests.support.device_results import detections_of
from tests.support.interpreter import interpreted
from tests.support.models import EXPORTED_TOLERANCE, GOLDEN, GOLDEN_READERS, IMAGES

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600), pytest.mark.usefixtures("one_thread")]

LOGIT_ERROR = 1e-4
CLASSES = 80
MOST_SLOTS, MOST_MASKS = 16, 25
"""Of the mask head and of the runs: the interpreter takes seconds for each."""


class Network(NamedTuple):
    """What a network of full size gave for the image."""

    family: str
    manifest: ModelManifest
    geometry: ImageGeometry
    outputs: Instances
    select: tuple[Any, ...]  # arguments of the operations
    mask_head: tuple[Any, ...]
    golden: InstanceDetections


@pytest.fixture(scope="module", params=["mmdet", "adelaidet"])
def network(request: pytest.FixtureRequest) -> Network:
    family = request.param
    path: Path = request.getfixturevalue(f"{family}_checkpoint")
    loaded = load_model(path)
    kept: dict[str, tuple[Any, ...]] = {}

    def select(*given: Any) -> tuple[Tensor, Tensor]:
        kept["select"] = given
        return REFERENCE.select(*given)

    def mask_head(*given: Any) -> Tensor:
        kept["mask_head"] = given
        return REFERENCE.mask_head(*given)

    model: CondInst = loaded.model.eval()
    image = rgb_from(IMAGES / "coffee.png")
    geometry = ImageGeometry.of((image.shape[0], image.shape[1]), loaded.manifest.preprocessing)
    inputs = network_inputs([image], [geometry])
    with torch.no_grad():
        outputs = FixedSlots(model, REFERENCE._replace(select=select, mask_head=mask_head)).eval()(
            *(torch.from_numpy(array) for array in inputs)
        )
    outputs = outputs._replace(
        num_detections=outputs.num_detections.to(torch.int32), labels=outputs.labels.to(torch.int32)
    )
    golden = GOLDEN_READERS[family](np.load(GOLDEN / family / "coffee_seed0.npz"), 0)
    return Network(family, loaded.manifest, geometry, outputs, kept["select"], kept["mask_head"], golden)


@pytest.fixture(scope="module")
def results(network: Network) -> list[Any]:
    sizes = [(network.geometry.original, network.geometry.resized, network.geometry.padded)]
    feats, *of_slots, hidden = network.mask_head
    few = (feats, *(tensor[:, :MOST_SLOTS].contiguous() for tensor in of_slots), hidden)
    calls: list[tuple[str, tuple[Any, ...]]] = [("select", network.select), ("mask_head", few)]
    return interpreted([*calls, ("results", (tuple(network.outputs), sizes, network.family, MOST_MASKS, CLASSES))])


def test_the_kernel_selects_what_the_reference_selects(network: Network, results: list[Any]) -> None:
    indices, count = results[0]
    want_indices, want_count = REFERENCE.select(*network.select)
    assert network.select[0].shape[1] == 5000
    assert count.tolist() == want_count.tolist()
    assert int(count[0]) > 70
    assert indices.tolist() == want_indices.tolist()


def test_the_kernels_mask_logits_are_the_references(network: Network, results: list[Any]) -> None:
    want = network.outputs.mask_logits[:, :MOST_SLOTS]
    assert want.shape[2:] == (network.geometry.padded[0] // 8, network.geometry.padded[1] // 8)
    error = float((results[1] - want).abs().max() / want.abs().max())
    assert error < LOGIT_ERROR


def test_runs_from_the_networks_logits_are_the_references_masks(network: Network, results: list[Any]) -> None:
    assert not isinstance(results[2], str), results[2]
    found = detections_of(results[2][0], network.geometry.original, network.family, CLASSES)
    found = replace(found, class_names=network.golden.class_names, category_ids=network.golden.category_ids)
    result = agreement(network.golden, found)
    assert result.matched == result.other_count == MOST_MASKS
    assert float(result.box_errors.max()) <= EXPORTED_TOLERANCE.boxes
    assert float(result.score_errors.max()) <= EXPORTED_TOLERANCE.scores
    assert float(result.mask_ious.min()) >= EXPORTED_TOLERANCE.mask_iou


def test_runs_from_the_networks_logits_are_the_hosts_byte_for_byte(network: Network, results: list[Any]) -> None:
    assert not isinstance(results[2], str), results[2]
    found = detections_of(results[2][0], network.geometry.original, network.family, CLASSES)
    host = NetworkOutputs(*(tensor.numpy() for tensor in network.outputs))
    few = ResultFilter(max_detections=MOST_MASKS)
    (want,) = detections_from_outputs(host, [network.geometry], network.manifest, few)
    assert len(found) == len(want) == MOST_MASKS
    np.testing.assert_array_equal(found.boxes, want.boxes, strict=True)
    np.testing.assert_array_equal(found.scores, want.scores, strict=True)
    for ours, theirs in zip(found.masks.runs, want.masks.runs, strict=True):
        np.testing.assert_array_equal(ours, theirs, strict=True)
