"""Golden values of a training step of either reference, compared with ours."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from condinst_deploy.model.checkpoints import load_model
from condinst_deploy.model.condinst import CondInst
from condinst_deploy.model.weight_names import KeyTable, renamed


def assert_gradient_norms(
    model: CondInst, wanted: Mapping[str, float | None], table: KeyTable, buffers: Collection[str] = ()
) -> None:
    """Every parameter has the gradient norm that the reference's has, or no gradient where that has none.

    Args:
        model: after the backward pass.
        wanted: the reference's key -> norm.
        table: the reference's keys -> ours.
        buffers: our parameters that the reference holds as buffers; they must not have a gradient.
    """
    ours, unmapped = renamed(list(wanted), table)
    parameters = dict(model.named_parameters())
    assert not unmapped
    assert set(ours.values()) == set(parameters) - set(buffers)
    assert all(parameters[key].grad is None for key in buffers)
    for key, own in ours.items():
        norm, gradient = wanted[key], parameters[own].grad
        if norm is None:
            assert gradient is None, key
        else:
            assert gradient is not None, key
            assert gradient.norm().item() == pytest.approx(norm, rel=1e-3, abs=1e-6), key


def assert_norm_statistics(model: CondInst, archive: Any, prefix: str, table: KeyTable) -> None:
    """The mask branch's seven norms have the running statistics that an archive holds under a prefix."""
    buffers = dict(model.named_buffers())
    ours, _ = renamed([key.removeprefix(prefix) for key in archive.files if key.startswith(prefix)], table)
    assert len(ours) == 14
    for key, own in ours.items():
        np.testing.assert_allclose(buffers[own].numpy(), archive[prefix + key], atol=1e-5)


def assert_backbone_untouched(model: CondInst, checkpoint: Path) -> None:
    """Weights and statistics of the backbone are those of the checkpoint."""
    untouched = load_model(checkpoint).model.backbone.state_dict()
    for key, value in model.backbone.state_dict().items():
        assert torch.equal(value, untouched[key]), key
