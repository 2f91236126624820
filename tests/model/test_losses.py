"""Parts of the losses and targets against plain writings of their definitions, and the empty cases."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.ops import generalized_box_iou

from condinst_deploy.contract import Family
from condinst_deploy.model.condinst import Features
from condinst_deploy.model.head import LevelOutputs
from condinst_deploy.model.losses import LossSettings, condinst_losses, dice_loss, giou_loss, semantic_loss
from condinst_deploy.model.targets import ImageTargets, assign, centres_of_mass, locations_at
from condinst_deploy.training.recipe import load_recipe
from tests.support.models import SLIM, seeded_model

SIDE = 128
CPU = torch.device("cpu")


def no_targets() -> ImageTargets:
    return ImageTargets(
        torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0, SIDE, SIDE, dtype=torch.bool)
    )


def square(x1: int, y1: int, x2: int, y2: int, label: int = 0) -> ImageTargets:
    masks = torch.zeros(1, SIDE, SIDE, dtype=torch.bool)
    masks[0, y1:y2, x1:x2] = True
    return ImageTargets(torch.tensor([[x1, y1, x2, y2]], dtype=torch.float32), torch.tensor([label]), masks)


def both(a: ImageTargets, b: ImageTargets) -> ImageTargets:
    return ImageTargets(torch.cat((a.boxes, b.boxes)), torch.cat((a.labels, b.labels)), torch.cat((a.masks, b.masks)))


def test_giou_is_torchvisions_of_the_same_boxes() -> None:
    random = torch.Generator().manual_seed(0)
    a, b = torch.rand(50, 4, generator=random) * 9, torch.rand(50, 4, generator=random) * 9
    signs = torch.tensor([-1.0, -1.0, 1.0, 1.0])
    want = 1 - generalized_box_iou(a * signs, b * signs).diagonal()
    torch.testing.assert_close(giou_loss(a, b), want, atol=1e-5, rtol=1e-5)


def test_giou_of_boxes_without_area_is_finite() -> None:
    nothing = torch.zeros(1, 4, requires_grad=True)
    loss = giou_loss(nothing, torch.zeros(1, 4))
    loss.sum().backward()
    assert loss.isfinite().all()
    assert nothing.grad is not None
    assert nothing.grad.isfinite().all()


def test_dice_of_equal_masks_is_0_and_of_disjoint_ones_1() -> None:
    masks = torch.zeros(2, 6, 6)
    masks[:, :3] = 1
    logits = torch.stack((masks[0] * 200 - 100, 100 - masks[1] * 200))
    np.testing.assert_allclose(dice_loss(logits, masks).numpy(), [0, 1], atol=1e-5)


def test_the_centre_of_mass_is_the_mean_of_the_pixels() -> None:
    masks = torch.from_numpy(np.random.default_rng(0).random((4, 20, 30)) > 0.7)
    xs, ys = centres_of_mass(masks)
    for mask, x, y in zip(masks.numpy(), xs, ys, strict=True):
        rows, columns = np.nonzero(mask)
        assert (x.item(), y.item()) == pytest.approx((columns.mean(), rows.mean()), abs=1e-4)


@pytest.mark.parametrize("size", [(SIDE, SIDE), (160, 224)])
def test_points_of_a_size_are_those_of_the_heads_outputs(size: tuple[int, int]) -> None:
    with torch.no_grad():
        levels = seeded_model().features(torch.zeros(1, 3, *size)).levels
    counts = [level.centerness.numel() for level in levels]
    assert locations_at(*size, CPU).strides.unique_consecutive(return_counts=True)[1].tolist() == counts


def test_the_smaller_of_two_boxes_gets_the_points_that_both_claim() -> None:
    locations = locations_at(SIDE, SIDE, CPU)
    outer, inner = square(20, 20, 80, 80), square(30, 30, 70, 70, label=1)
    alone = assign(locations, outer)
    together = assign(locations, both(outer, inner))
    assert len(alone.locations) > 0
    assert set(together.instances.tolist()) == {1}
    assert set(alone.locations.tolist()) == set(together.locations.tolist())


def test_a_batch_without_any_instance_has_zero_losses_and_finite_gradients() -> None:
    model = seeded_model().train()
    losses = condinst_losses(model.features(torch.zeros(2, 3, SIDE, SIDE)), [no_targets()] * 2, LossSettings())
    assert losses.box.item() == losses.centerness.item() == losses.mask.item() == 0
    assert losses.cls.item() > 0
    losses.total.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all(), name


def test_an_empty_image_beside_a_full_one_changes_no_normaliser_but_adds_its_negatives() -> None:
    model = seeded_model().eval()
    images = torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    full = square(20, 30, 90, 100)
    with torch.no_grad():
        pair = condinst_losses(model.features(images), [full, no_targets()], LossSettings())
        alone = condinst_losses(model.features(images[:1]), [full], LossSettings())
    for name in ("box", "centerness", "mask"):
        assert getattr(pair, name).item() == pytest.approx(getattr(alone, name).item(), rel=1e-4)
    assert pair.cls.item() > alone.cls.item()


def test_the_cap_by_quality_keeps_at_least_one_point_of_every_instance() -> None:
    model = seeded_model().eval()
    targets = both(square(10, 10, 60, 60), square(64, 64, 120, 120, label=1))
    with torch.no_grad():
        features = model.features(torch.zeros(1, 3, SIDE, SIDE))
        capped = condinst_losses(features, [targets], LossSettings(max_masks=None, masks_per_image=1))
        free = condinst_losses(features, [targets], LossSettings())
    assert 0 < capped.mask.item() <= 1
    assert capped.mask.item() != free.mask.item()
    assert SLIM.num_classes == 3


@pytest.mark.parametrize("recipe", ["condinst_r50_1x", "adelaidet_r50_1x"])
def test_a_recipe_can_take_the_best_masks_of_an_image_instead_of_random_ones(recipe: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(f"base = '{recipe}'\n[losses]\nmax_masks = 1\nmasks_per_image = 4\n")
    settings = load_recipe(str(path)).losses

    def never(_image: int, n: int) -> torch.Tensor:
        raise AssertionError(f"{n} masks were drawn at random")

    with torch.no_grad():
        features = seeded_model().eval().features(torch.zeros(2, 3, SIDE, SIDE))
        targets = [square(20, 30, 90, 100)] * 2
        chosen = condinst_losses(features, targets, settings, draw=never)
        best = condinst_losses(features, targets, replace(settings, max_masks=None), draw=never)
        drawn = condinst_losses(features, targets, replace(settings, masks_per_image=None))
    assert chosen.mask.item() == best.mask.item() != drawn.mask.item()


def test_adelaidets_giou_adds_one_to_both_areas() -> None:
    a, b = torch.tensor([[1.0, 1, 1, 1]]), torch.tensor([[2.0, 1, 2, 1]])
    # overlap 4 of a union of 8, which the hull equals
    assert giou_loss(a, b).item() == pytest.approx(1 - 4 / 8)
    assert giou_loss(a, b, "adelaidet").item() == pytest.approx(1 - 5 / 9)


@pytest.mark.parametrize("family", ["mmdet", "adelaidet"])
def test_the_cap_is_for_an_image_or_for_the_whole_batch(family: Family) -> None:
    model = seeded_model().eval()
    full = square(20, 30, 90, 100)
    asked: list[int] = []

    def last_first(image: int, n: int) -> torch.Tensor:
        asked.append(n)
        return -torch.arange(n) - 1000.0 * image

    with torch.no_grad():
        features = model.features(torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0)))
        positives = len(assign(locations_at(SIDE, SIDE, CPU), full).locations)
        one = LossSettings(max_masks=1, family=family)
        capped = condinst_losses(features, [full, full], one, draw=last_first)
        every = condinst_losses(features, [full, full], LossSettings(max_masks=500, family=family))
        second = Features([LevelOutputs(*(x[1:] for x in level)) for level in features.levels], features.mask_feats[1:])
        alone = condinst_losses(second, [full], one, draw=last_first)
    assert positives > 1
    assert asked == [positives] * 3
    assert capped.mask.item() != pytest.approx(every.mask.item())
    if family == "adelaidet":  # the last of all positives is in the second image
        assert capped.mask.item() == pytest.approx(alone.mask.item(), rel=1e-5)


def test_the_semantic_loss_takes_the_smallest_mask_of_a_pixel() -> None:
    classes, random = 3, torch.Generator().manual_seed(0)
    logits = torch.randn(2, classes, SIDE // 8, SIDE // 8, generator=random)
    outer, inner = square(16, 16, 112, 112, label=2), square(40, 40, 80, 72, label=1)
    wanted = torch.zeros_like(logits)
    wanted[0, 2, 2:14, 2:14] = 1  # pixel 4 of every 8
    wanted[0, :, 5:9, 5:10] = torch.tensor([0.0, 1, 0])[:, None, None]
    p = logits.sigmoid()
    focal = torch.where(wanted > 0, -0.25 * (1 - p) ** 2 * p.log(), -0.75 * p**2 * (1 - p).log()).sum()
    loss = semantic_loss(logits, [both(outer, inner), no_targets()])
    assert loss.item() == pytest.approx(focal.item(), rel=1e-5)


def test_the_semantic_loss_of_images_without_instances_is_finite() -> None:
    logits = torch.zeros(1, 3, SIDE // 8, SIDE // 8, requires_grad=True)
    loss = semantic_loss(logits, [no_targets()])
    loss.backward()
    assert loss.item() == pytest.approx(3 * (SIDE // 8) ** 2 * 0.75 * 0.25 * np.log(2), rel=1e-4)
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
