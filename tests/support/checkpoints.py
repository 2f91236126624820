"""Checkpoint files for the tests, and what two models have in common."""

from pathlib import Path
from typing import Any

import torch

from condinst_deploy.model.condinst import CondInst
from tests.support.models import TINY, manifest_of, noise_image, seeded_model


def saved(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


def own_content(**changes: Any) -> dict[str, Any]:
    content = {
        "format": "condinst-deploy",
        "config": TINY.to_dict(),
        "manifest": manifest_of(TINY).to_json(),
        "state_dict": seeded_model(TINY).state_dict(),
    }
    return content | changes


def assert_same_weights(model: CondInst, expected: CondInst) -> None:
    state, want = model.state_dict(), expected.state_dict()
    assert state.keys() == want.keys()
    assert [key for key in want if not torch.equal(state[key], want[key])] == []


def assert_same_outputs(model: CondInst, expected: CondInst) -> None:
    image = torch.from_numpy(noise_image(0, 160, 288)).permute(2, 0, 1)[None]
    size = torch.tensor([[150, 260]], dtype=torch.int32)
    with torch.no_grad():
        features, want = (m.features(m.normalize(image, size)) for m in (model, expected))
    assert torch.equal(features.mask_feats, want.mask_feats)
    for level, want_level in zip(features.levels, want.levels, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(level, want_level, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(model(image, size), expected(image, size), strict=True))
