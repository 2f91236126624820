"""The optimizers: which parameters each has, and what Muon does to a convolution."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from condinst_deploy.errors import ConfigError
from condinst_deploy.model.condinst import CondInst
from condinst_deploy.training.optimizers import optimizer_of
from condinst_deploy.training.recipe import OptimizerSettings
from tests.support.models import TINY

FORMATS = pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["rows", "channels"])


def model_in(layout: torch.memory_format = torch.contiguous_format) -> CondInst:
    torch.manual_seed(0)
    return CondInst(TINY).to(memory_format=layout)


def with_gradients(model: CondInst) -> CondInst:
    random = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        parameter.grad = torch.empty_like(parameter).copy_(torch.randn(parameter.shape, generator=random))
    return model


def test_norms_and_biases_decay_only_where_the_recipe_says_so() -> None:
    model = model_in()
    spared = optimizer_of(model, OptimizerSettings("adamw", decay_norms_and_biases=False))
    everything = optimizer_of(model, OptimizerSettings("adamw"))
    assert all(parameter.ndim == 4 for parameter in spared.param_groups[0]["params"])
    assert len(everything.param_groups[0]["params"]) == len(list(model.parameters()))


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ConfigError, match="expected one of sgd, adamw, muon"):
        OptimizerSettings("lion")  # type: ignore[arg-type]


@FORMATS
def test_muon_and_adamw_share_out_all_parameters(layout: torch.memory_format) -> None:
    model = model_in(layout)
    memory = {parameter.data_ptr(): name for name, parameter in model.named_parameters()}
    groups = optimizer_of(model, OptimizerSettings("muon", muon_factor=2.0)).param_groups
    shared = [[memory[parameter.data_ptr()] for parameter in group["params"]] for group in groups]
    assert sorted(name for group in shared for name in group) == sorted(memory.values())
    outer = {"backbone.conv1.weight", *(f"head.{name}.weight" for name in ("cls_logits", "box_pred", "centerness"))}
    assert not (outer | {"head.controller.weight"}) & set(shared[0])
    assert "backbone.layer1.0.conv1.weight" in shared[0]
    assert [group.get("factor", 1.0) for group in groups] == [2.0, 1.0, 1.0]


def test_the_semantic_classifier_is_a_predictor_too() -> None:
    model = CondInst(replace(TINY, semantic_head=True))
    memory = {parameter.data_ptr(): name for name, parameter in model.named_parameters()}
    muons, *adamws = optimizer_of(model, OptimizerSettings("muon")).param_groups
    inner = {memory[parameter.data_ptr()] for parameter in muons["params"]}
    outer = {memory[parameter.data_ptr()] for group in adamws for parameter in group["params"]}
    assert "mask_branch.semantic.2.weight" in outer - inner
    assert "mask_branch.semantic.0.conv.weight" in inner - outer


@FORMATS
def test_muons_update_of_a_convolution_is_nearly_orthogonal(layout: torch.memory_format) -> None:
    model = with_gradients(model_in(layout))
    weight = dict(model.named_parameters())["backbone.layer1.0.conv1.weight"]
    assert weight.grad is not None
    weight.grad *= torch.arange(1, 9).reshape(8, 1, 1, 1)  # some directions are much louder than others
    before = weight.detach().clone()
    optimizer_of(model, OptimizerSettings("muon", learning_rate=0.01, weight_decay=0.0)).step()
    update = (weight.detach() - before).flatten(1)  # (8, 72)
    loud, even = (torch.linalg.svdvals(matrix) for matrix in (weight.grad.flatten(1), update))
    assert loud.max() > 8 * loud.min()
    assert even.max() < 2 * even.min()
    # against the gradient, at the size of AdamW's steps
    assert (update * weight.grad.flatten(1)).sum() < 0
    assert 0.5 < update.square().mean().sqrt() / (0.2 * 0.01) < 2


def test_both_layouts_give_the_same_steps() -> None:
    models = [with_gradients(model_in(layout)) for layout in (torch.contiguous_format, torch.channels_last)]
    for model in models:
        optimizer_of(model, OptimizerSettings("muon", learning_rate=0.01)).step()
    for (name, left), right in zip(models[0].named_parameters(), models[1].parameters(), strict=True):
        # the iteration runs in bfloat16, and sums in another order
        torch.testing.assert_close(left, right, rtol=0, atol=2e-4, msg=name)


def test_gradients_are_forgotten() -> None:
    model = with_gradients(model_in())
    optimizer = optimizer_of(model, OptimizerSettings("muon"))
    optimizer.step()
    optimizer.zero_grad()
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(isinstance(parameter, nn.Parameter) for group in optimizer.param_groups for parameter in group["params"])
