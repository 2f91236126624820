"""Candidates of the exported graph, before it is exported: fixed slots against the reference's ragged lists."""

from dataclasses import replace
from pathlib import Path

import onnx
import pytest
import torch

from condinst_deploy.contract import Selection
from condinst_deploy.model.candidates import candidates_from_levels
from condinst_deploy.model.condinst import Instances
from condinst_deploy.model.config import SIZES_OF_INTEREST, STRIDES, CondInstConfig
from condinst_deploy.model.fixed_slots import AllCandidates, FixedSlots, Neighbourhoods, ParamsAt
from condinst_deploy.model.head import LevelOutputs, level_points
from condinst_deploy.model.operations import REFERENCE
from tests.support.models import SLIM, SLIM_ADELAIDET, noise_image, seeded_model
from tests.support.operations import CandidateCase, candidate_cases


@pytest.mark.parametrize("config", [SLIM, SLIM_ADELAIDET], ids=lambda config: config.family)
@pytest.mark.parametrize("case", candidate_cases(), ids=str)
def test_the_graph_has_the_reference_candidates(case: CandidateCase, config: CondInstConfig) -> None:
    selection = Selection(
        score_threshold=case.threshold, candidates_per_level=case.limit, family=config.selection.family
    )
    candidates = AllCandidates(replace(config, selection=selection))
    slots = candidates(case.levels, case.sizes, torch.tensor(case.threshold))
    for image, (height, width) in enumerate(case.sizes.tolist()):
        want = candidates_from_levels(case.levels, image, (height, width), selection)
        live = slots.scores[image] > 0
        assert torch.equal(slots.labels[image, live].long(), want.labels)
        assert torch.equal(slots.points[image, live], want.points)
        assert torch.equal(slots.soi[image, live], want.soi)
        torch.testing.assert_close(slots.scores[image, live], want.scores, rtol=1e-6, atol=0)
        torch.testing.assert_close(slots.boxes[image, live], want.boxes, rtol=0, atol=1e-4)
        assert int(live.sum()) == len(want.scores)


@pytest.mark.parametrize("finest", [(16, 21), (17, 16), (1, 1)], ids=str)
def test_parameters_at_points_are_those_of_the_convolution(finest: tuple[int, int]) -> None:
    """Every point of every level, so that all borders are met; the convolution is the other way to compute them."""
    random = torch.Generator().manual_seed(0)
    controller = torch.nn.Conv2d(12, 7, 3, padding=1)
    features, want, points, soi = [], [], [], []
    for i, (stride, own) in enumerate(zip(STRIDES, SIZES_OF_INTEREST, strict=True)):
        height, width = (-(-side // 2**i) for side in finest)
        features.append(torch.randn(2, 12, height, width, generator=random))
        want.append(controller(features[-1]).flatten(2))
        points.append(level_points(height, width, stride, torch.device("cpu")))
        soi.append(torch.full((height * width,), float(own)))
    order = torch.randperm(sum(len(each) for each in soi), generator=random)  # levels mixed, as in the slots
    every_point, every_soi = torch.cat(points)[order].expand(2, -1, -1), torch.cat(soi)[order].expand(2, -1)
    cells = Neighbourhoods()(every_point, every_soi, [x.shape[2:] for x in features])
    found = ParamsAt()(features, cells, controller, torch.ones_like(every_soi, dtype=torch.bool))
    torch.testing.assert_close(found, torch.cat(want, dim=2)[:, :, order].transpose(1, 2), rtol=1e-5, atol=1e-5)


NAN = float("nan")


@pytest.mark.parametrize("config", [SLIM, SLIM_ADELAIDET], ids=lambda config: config.family)
@pytest.mark.parametrize("broken", ["cls_logits", "distances", "centerness", "params", "all"])
def test_a_level_that_is_not_finite_spoils_no_other_level(
    config: CondInstConfig, broken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The finest level, which has most instances, against the same level with no class that passes."""
    model = seeded_model(config)
    graph = FixedSlots(model, REFERENCE)
    image = torch.from_numpy(noise_image(0, 128, 224)).permute(2, 0, 1)[None]
    size = torch.tensor([[128, 224]], dtype=torch.int32)
    features = model.features_before_controller(model.normalize(image, size))
    level = features.levels[0]
    nan = {name: torch.full_like(getattr(level, name), NAN) for name in level._fields if broken in (name, "all")}
    silent = level._replace(cls_logits=torch.full_like(level.cls_logits, -100.0))

    def outputs(first: LevelOutputs) -> Instances:
        replaced = features._replace(levels=[first, *features.levels[1:]])
        monkeypatch.setattr(model, "features_before_controller", lambda normalized: replaced)
        with torch.no_grad():
            found: Instances = graph(image, size)
        return found

    want, have, whole = outputs(silent), outputs(level._replace(**nan)), outputs(level)
    count = int(want.num_detections)
    assert 0 < count < config.selection.max_detections
    if broken == "params":  # its instances have NaN masks, the others what they have without the fault
        of_level = ~torch.isfinite(have.mask_logits).all(dim=(2, 3))
        assert of_level.any()
        assert not of_level.all()
        assert torch.equal(have.mask_logits[~of_level], whole.mask_logits[~of_level])
        return
    assert int(have.num_detections) == count
    for field in ("boxes", "scores", "labels", "mask_logits"):
        assert torch.equal(getattr(have, field)[:, :count], getattr(want, field)[:, :count]), field
    assert torch.isnan(have.scores[0, -1])  # the mark
    assert torch.isfinite(want.scores).all()


def test_no_convolution_of_the_file_is_the_controller(slim_onnx: Path) -> None:
    graph = onnx.load(str(slim_onnx)).graph
    weight = "model.head.controller.weight"
    assert weight in {entry.name for entry in graph.initializer}
    assert {node.name.split("/")[0] for node in graph.node if weight in node.input} == {"params"}
