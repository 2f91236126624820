"""The network in half precision, on a CPU."""

import pytest
import torch

from condinst_deploy.model.checkpoints import load_model
from condinst_deploy.model.condinst import CondInst
from condinst_deploy.model.fixed_slots import FixedSlots
from condinst_deploy.model.folding import fold_batch_norms
from condinst_deploy.model.half import TOWER_SHIFT, HalfNetwork, HalfType, scale_before_norm
from condinst_deploy.model.head import ConvNorm
from condinst_deploy.model.operations import REFERENCE
from tests.support.models import SHIPPED, SLIM_KINDS, noise_image, seeded_model

pytestmark = pytest.mark.usefixtures("one_thread")

LARGEST_FLOAT16 = 65504
WIDE = ("head.box_pred", "head.centerness", "head.controller", "head.scales")


def inputs(side: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    images = torch.stack([torch.from_numpy(noise_image(seed, side, side)).permute(2, 0, 1) for seed in range(2)])
    return images, torch.tensor([[side, side], [side - 20, side - 9]], dtype=torch.int32)


def largest_of_towers(model: CondInst) -> list[float]:
    """Largest outputs of the first convolutions of both towers, filled as the network runs."""
    found = [0.0, 0.0]
    for i, tower in enumerate((model.head.cls_tower, model.head.box_tower)):

        def note(_: object, __: object, output: torch.Tensor, i: int = i) -> None:
            found[i] = max(found[i], float(output.float().abs().max()))

        tower.get_submodule("0.conv").register_forward_hook(note)
    return found


@pytest.mark.parametrize("kind", ["mmdet", "adelaidet BiFPN sem"])
def test_every_kind_of_model_gives_nearly_what_float32_gives(kind: str) -> None:
    images, sizes = inputs()
    reference = FixedSlots(seeded_model(SLIM_KINDS[kind]), REFERENCE).eval()
    half = HalfNetwork(seeded_model(SLIM_KINDS[kind]), REFERENCE, "bfloat16").eval()
    with torch.no_grad():
        normalized = reference.model.normalize(images, sizes)
        want, found = reference.features(normalized), half.features(normalized)
        outputs = half(images, sizes)
    # the coarsest levels have a few cells here, and GroupNorm makes much of the rounding of so few
    pairs = [(found.mask_feats, want.mask_feats)]
    pairs += [
        pair for levels in zip(found.levels[:3], want.levels[:3], strict=True) for pair in zip(*levels, strict=True)
    ]
    for ours, theirs in pairs:
        assert ours.shape == theirs.shape
        assert float((ours.float() - theirs).abs().mean()) < 0.05 * float(theirs.abs().mean() + theirs.std())
    assert all(bool(torch.isfinite(tensor.float()).all()) for tensor in outputs)
    assert outputs.mask_logits.dtype == torch.float32


@pytest.mark.parametrize("half", ["float16", "bfloat16"])
def test_convolutions_are_half_and_what_decides_is_float32(half: HalfType) -> None:
    model = seeded_model()
    HalfNetwork(model, REFERENCE, half)
    kinds = {name: parameter.dtype for name, parameter in model.named_parameters()}
    wide = {name for name, kind in kinds.items() if kind == torch.float32}
    assert wide == {name for name in kinds if name.startswith(WIDE)}
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in model.modules())


def test_scaling_before_a_norm_changes_nothing_in_float32() -> None:
    torch.manual_seed(1)
    block = ConvNorm(32, torch.nn.GroupNorm(32, 64), 64, bias=True).eval()
    x = 100 * torch.randn(2, 32, 9, 7)
    with torch.no_grad():
        want = block(x)
        scale_before_norm(block, TOWER_SHIFT)
        torch.testing.assert_close(block(x), want, rtol=0, atol=0)


def test_the_shipped_model_would_overflow_float16_and_does_not() -> None:
    images, sizes = inputs(352)
    with torch.no_grad():
        model = load_model(SHIPPED).model
        fold_batch_norms(model)
        plain = largest_of_towers(model)
        model(images[:1], sizes[:1])
        assert max(plain) > LARGEST_FLOAT16
        model = load_model(SHIPPED).model
        network = HalfNetwork(model, REFERENCE, "float16").eval()
        scaled = largest_of_towers(model)
        outputs = network(images[:1], sizes[:1])
    assert max(scaled) < LARGEST_FLOAT16 / 4
    assert all(bool(torch.isfinite(tensor.float()).all()) for tensor in outputs)
