"""Losses, targets, gradients and norm statistics against AdelaiDet's for one training batch."""

from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from pycocotools import mask as coco_mask

from condinst_deploy.model.checkpoints import load_model
from condinst_deploy.model.condinst import CondInst, Features
from condinst_deploy.model.losses import Losses, LossSettings, condinst_losses
from condinst_deploy.model.targets import ImageTargets, assign, locations_at
from condinst_deploy.model.weight_names import ADELAIDET
from tests.support.golden_losses import assert_backbone_untouched, assert_gradient_norms, assert_norm_statistics
from tests.support.models import GOLDEN, adelaidet_state

SETTINGS = {
    "losses": LossSettings(max_masks=500, family="adelaidet"),
    "losses_topk32": LossSettings(max_masks=None, masks_per_image=32, family="adelaidet"),
    "losses_sem": LossSettings(max_masks=500, family="adelaidet"),
}
NAMES = {
    "cls": "loss_fcos_cls",
    "box": "loss_fcos_loc",
    "centerness": "loss_fcos_ctr",
    "mask": "loss_mask",
    "semantic": "loss_sem",
}
SIZE = (640, 960)


@pytest.fixture(scope="module")
def batch() -> Any:
    return np.load(GOLDEN / "adelaidet" / "losses_seed0.npz")


@pytest.fixture(scope="module")
def sem_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sem") / "model.pth"
    torch.save({"model": adelaidet_state("MS_R_50_sem")}, path)
    return path


def batch_targets(batch: Any) -> list[ImageTargets]:
    targets = []
    for i in range(2):
        labels = torch.from_numpy(batch[f"im{i}_classes"])
        masks = np.stack([full_mask(batch, f"im{i}_obj{j}") for j in range(len(labels))])
        targets.append(ImageTargets(torch.from_numpy(batch[f"im{i}_boxes"]).float(), labels, torch.from_numpy(masks)))
    return targets


def full_mask(batch: Any, name: str) -> npt.NDArray[np.bool_]:
    """An instance's polygons, drawn by pycocotools at the padded size."""
    polygons = []
    for k in count():
        if f"{name}_poly{k}" not in batch.files:
            break
        polygons.append(batch[f"{name}_poly{k}"].tolist())
    drawn = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(polygons, *SIZE)))
    return np.asarray(drawn, dtype=np.bool_)


def features_of(model: CondInst, batch: Any) -> Features:
    images = torch.zeros((2, 3, *SIZE), dtype=torch.uint8)
    sizes = []
    for i in range(2):
        rgb = batch[f"im{i}_bgr"][..., ::-1].copy()
        sizes.append(rgb.shape[:2])
        images[i, :, : rgb.shape[0], : rgb.shape[1]] = torch.from_numpy(rgb).permute(2, 0, 1)
    return model.features(model.normalize(images, torch.tensor(sizes)))


@pytest.fixture(scope="module", params=SETTINGS)
def step(
    request: pytest.FixtureRequest, adelaidet_checkpoint: Path, sem_checkpoint: Path, batch: Any
) -> tuple[Any, CondInst, Losses]:
    """One forward and backward pass in training mode, and what AdelaiDet got."""
    golden = np.load(GOLDEN / "adelaidet" / f"{request.param}_seed0.npz")
    model = load_model(sem_checkpoint if request.param == "losses_sem" else adelaidet_checkpoint).model
    model.backbone.freeze(2, norm_eval=True, norm_affine=False)
    model.train()
    losses = condinst_losses(features_of(model, batch), batch_targets(batch), SETTINGS[request.param])
    losses.total.backward()
    return golden, model, losses


def test_losses_are_adelaidets(step: tuple[Any, CondInst, Losses]) -> None:
    golden, _, losses = step
    assert set(losses.terms) == {name for name, theirs in NAMES.items() if theirs in golden.files}
    for name, value in losses.terms.items():
        assert value.item() == pytest.approx(float(golden[NAMES[name]]), rel=1e-5), name


def test_every_gradient_norm_is_adelaidets(step: tuple[Any, CondInst, Losses]) -> None:
    golden, model, _ = step
    learnt = dict(zip(golden["grad_names"].tolist(), golden["grad_norms"].tolist(), strict=True))
    frozen = dict.fromkeys(golden["frozen_names"].tolist())
    names = [name for name, _ in model.named_parameters()]
    norms = [name for name in names if name.startswith("backbone.") and ("bn" in name or "downsample.1" in name)]
    assert_gradient_norms(model, learnt | frozen, ADELAIDET, buffers=norms)


def test_norm_statistics_after_the_step_are_adelaidets(step: tuple[Any, CondInst, Losses], batch: Any) -> None:
    _, model, _ = step
    assert_norm_statistics(model, batch, "after_", ADELAIDET)


def test_frozen_norms_keep_everything(step: tuple[Any, CondInst, Losses], adelaidet_checkpoint: Path) -> None:
    _, model, _ = step
    assert_backbone_untouched(model, adelaidet_checkpoint)


def test_positives_are_adelaidets(batch: Any) -> None:
    locations = locations_at(*SIZE, torch.device("cpu"))
    targets = batch_targets(batch)
    for i, target in enumerate(targets):
        stride_4 = np.unpackbits(batch["gt_bitmasks_packed"], axis=2)[6 * i :][: len(target.masks)]
        assert np.array_equal(target.masks[:, 2::4, 2::4].numpy(), stride_4.astype(bool))
        found = assign(locations, target)
        mine = batch["pos_im_inds"] == i
        theirs = {
            (*point, level): (instance, *distances)
            for point, level, instance, distances in zip(
                batch["pos_locations"][mine].tolist(),
                batch["pos_fpn_levels"][mine].tolist(),
                (batch["pos_gt_inds"][mine] - 6 * i).tolist(),
                batch["pos_reg_targets"][mine].tolist(),
                strict=True,
            )
        }
        levels = (locations.strides[found.locations].log2() - 3).int()
        ours = {
            (*point, level): (instance, *distances)
            for point, level, instance, distances in zip(
                locations.points[found.locations].tolist(),
                levels.tolist(),
                found.instances.tolist(),
                found.distances.tolist(),
                strict=True,
            )
        }
        assert ours.keys() == theirs.keys()
        for key, value in theirs.items():
            assert ours[key] == pytest.approx(value, abs=1e-4), key
