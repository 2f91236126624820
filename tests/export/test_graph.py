"""Candidates of the exported graph, before it is exported: fixed slots against the reference's ragged lists."""

from dataclasses import replace

import pytest
import torch

from condinst_deploy.contract import Selection
from condinst_deploy.model.candidates import candidates_from_levels
from condinst_deploy.model.config import CondInstConfig
from condinst_export.graph import AllCandidates
from tests.models import SLIM, SLIM_ADELAIDET
from tests.operations import CandidateCase, candidate_cases


@pytest.mark.parametrize("config", [SLIM, SLIM_ADELAIDET], ids=lambda config: config.family)
@pytest.mark.parametrize("case", candidate_cases(), ids=str)
def test_the_graph_has_the_reference_candidates(case: CandidateCase, config: CondInstConfig) -> None:
    selection = Selection(
        score_threshold=case.threshold, candidates_per_level=case.limit, family=config.selection.family
    )
    candidates = AllCandidates(replace(config, selection=selection))
    slots = candidates(case.levels, case.sizes, torch.tensor(case.threshold))
    for picture, (height, width) in enumerate(case.sizes.tolist()):
        want = candidates_from_levels(case.levels, picture, (height, width), selection)
        live = slots.scores[picture] > 0
        assert torch.equal(slots.labels[picture, live].long(), want.labels)
        assert torch.equal(slots.points[picture, live], want.points)
        assert torch.equal(slots.soi[picture, live], want.soi)
        torch.testing.assert_close(slots.scores[picture, live], want.scores, rtol=1e-6, atol=0)
        torch.testing.assert_close(slots.boxes[picture, live], want.boxes, rtol=0, atol=1e-4)
        assert int(live.sum()) == len(want.scores)
