"""BoxInst's losses against a second writing of the paper's formulas, pixel by pixel (arXiv 2012.02310)."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from condinst_deploy.contract import Family
from condinst_deploy.data.coco import CocoDataset
from condinst_deploy.data.shapes_dataset import generate_shapes
from condinst_deploy.data.transforms import TrainingTransform
from condinst_deploy.errors import ConfigError, DataError
from condinst_deploy.model.boxinst import (
    ColourRules,
    box_masks,
    lab_from_rgb,
    pairwise_losses,
    similar_neighbours,
)
from condinst_deploy.model.loss_plan import LossSettings, Part, normalisers_of, plan_step, sums_of
from condinst_deploy.model.losses import LossRules, losses_of, projection_loss
from condinst_deploy.model.targets import ImageTargets
from condinst_deploy.training.recipe import DataSettings, Recipe, ScheduleSettings, StartSettings
from condinst_deploy.training.run_start import new_run
from condinst_deploy.training.train_model import train as train_model
from condinst_deploy.training.train_options import TrainOptions
from condinst_deploy.training.trainer import Reports, manifest_for, open_sets, train
from tests.support.models import SLIM, TINY, seeded_model

pytestmark = pytest.mark.usefixtures("one_thread")

OFFSETS = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if (dy, dx) != (0, 0)]

FloatArray = npt.NDArray[np.float64]


def probability(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def plain_dice(p: FloatArray, g: FloatArray) -> float:
    return 1 - 2 * float((p * g).sum()) / (float((p**2).sum()) + float((g**2).sum()) + 1e-5)


def plain_lab(red: float, green: float, blue: float) -> FloatArray:
    """CIELAB of an sRGB colour in 0..255, by the definitions of sRGB and of CIELAB under D65."""
    shares = [colour / 255 for colour in (red, green, blue)]
    linear = [((c + 0.055) / 1.055) ** 2.4 if c > 0.04045 else c / 12.92 for c in shares]
    matrix = [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
    xyz = [sum(m * v for m, v in zip(row, linear, strict=True)) for row in matrix]
    delta = 6 / 29
    x, y, z = (
        t ** (1 / 3) if t > delta**3 else t / (3 * delta**2) + 4 / 29
        for t in (v / white for v, white in zip(xyz, (0.95047, 1.0, 1.08883), strict=True))
    )
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def plain_similar(image: npt.NDArray[np.uint8], height: int, width: int, rules: ColourRules) -> npt.NDArray[np.bool_]:
    """Pairs `(8, h, w)` of one padded image `(3, H, W)` whose colours are alike and whose second pixel is inside."""
    rows, columns = image.shape[1] // rules.stride, image.shape[2] // rules.stride
    lab = np.zeros((rows, columns, 3))
    for y in range(rows):
        for x in range(columns):
            window = image[:, y * 4 : y * 4 + 4, x * 4 : x * 4 + 4].reshape(3, -1)
            lab[y, x] = plain_lab(*(int(channel.mean()) for channel in window))
    removed = int(rules.bottom * height / image.shape[1])
    found = np.zeros((8, rows, columns), dtype=bool)
    for k, (dy, dx) in enumerate(OFFSETS):
        for y in range(rows):
            for x in range(columns):
                v, u = y + rules.dilation * dy, x + rules.dilation * dx
                if not (0 <= v < rows and 0 <= u < columns):
                    continue
                inside = v * 4 + 2 < height - removed and u * 4 + 2 < width
                alike = math.exp(-float(np.linalg.norm(lab[y, x] - lab[v, u])) / 2) >= rules.threshold
                found[k, y, x] = inside and alike
    return found


def plain_losses(
    logits: FloatArray, masks: npt.NDArray[np.bool_], similar: npt.NDArray[np.bool_], dilation: int
) -> tuple[float, float, int]:
    """Projection and pairwise losses of an image, summed over its masks; and its pairs."""
    projection = pairwise = 0.0
    pairs = 0
    for logit, mask in zip(logits, masks, strict=True):
        p = np.vectorize(probability)(logit)
        for axis in (0, 1):
            projection += plain_dice(p.max(axis=axis), mask.max(axis=axis).astype(float))
        for k, (dy, dx) in enumerate(OFFSETS):
            for y, x in zip(*np.nonzero(similar[k] & mask), strict=True):
                q, own = p[y + dilation * dy, x + dilation * dx], p[y, x]
                pairwise -= math.log(own * q + (1 - own) * (1 - q))
                pairs += 1
    return projection, pairwise, pairs


def blocky(height: int, width: int, seed: int) -> npt.NDArray[np.uint8]:
    """A padded image of patches: some neighbours have the same colour, some nearly, some not."""
    rng = np.random.default_rng(seed)
    patches = rng.integers(0, 256, (3, 4, 4)).repeat(16, axis=1).repeat(16, axis=2)
    noisy = (patches + rng.integers(0, 5, patches.shape)).clip(0, 255).astype(np.uint8)
    noisy[:, height:], noisy[:, :, width:] = 0, 0
    return noisy


def test_lab_is_that_of_the_definitions() -> None:
    colours = np.random.default_rng(0).integers(0, 256, (50, 3))
    colours[:3] = [[0, 0, 0], [255, 255, 255], [1, 2, 3]]
    got = lab_from_rgb(torch.from_numpy(colours.T.reshape(1, 3, 1, 50) / 255))[0, :, 0].T.numpy()
    np.testing.assert_allclose(got, [plain_lab(*colour) for colour in colours.tolist()], atol=0.02)
    np.testing.assert_allclose(got[1], [100, 0, 0], atol=0.02)


@pytest.mark.parametrize("rules", [ColourRules(), ColourRules(dilation=1, threshold=0.6, bottom=40)])
def test_similar_neighbours_are_those_of_the_formula(rules: ColourRules) -> None:
    sizes = [(64, 64), (50, 44)]
    images = np.stack([blocky(*size, seed=i) for i, size in enumerate(sizes)])
    got = similar_neighbours(torch.from_numpy(images), torch.tensor(sizes), rules).numpy()
    want = np.stack([plain_similar(image, *size, rules) for image, size in zip(images, sizes, strict=True)])
    assert 0.05 < want.mean() < 0.8
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("dilation", [1, 2])
def test_projection_and_pairwise_losses_are_those_of_the_formulas(dilation: int) -> None:
    rng = np.random.default_rng(0)
    logits, masks = rng.normal(0, 3, (3, 16, 16)), np.zeros((3, 16, 16), dtype=bool)
    masks[0, 2:9, 3:12], masks[1, 0:16, 0:5], masks[2, 7, 7] = True, True, True
    rules = ColourRules(dilation=dilation)
    similar = plain_similar(blocky(64, 64, 3), 64, 64, rules)
    projection, pairwise, _ = plain_losses(logits, masks, similar, dilation)
    x, boxes = torch.from_numpy(logits), torch.from_numpy(masks)
    assert projection_loss(x, boxes).sum().item() == pytest.approx(projection, rel=1e-9)
    learnt = torch.from_numpy(similar)[None] & boxes[:, None]
    assert (pairwise_losses(x, dilation) * learnt).sum().item() == pytest.approx(pairwise, rel=1e-9)


def test_pairwise_losses_of_certain_pixels_are_finite() -> None:
    logits = torch.full((1, 6, 6), 200.0).index_fill(2, torch.tensor([3]), -200.0).requires_grad_()
    loss = pairwise_losses(logits, 1)
    loss.sum().backward()
    assert loss.isfinite().all()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    assert loss.max() > 100


@pytest.mark.parametrize("family", ["mmdet", "adelaidet"])
@pytest.mark.parametrize("masks_per_image", [None, 6])
def test_losses_of_a_step_are_those_of_the_formulas(family: Family, masks_per_image: int | None) -> None:
    """All masks that are learnt: their own logits, from the model, go through the plain formulas."""
    settings = LossSettings(None, masks_per_image, family, kind="boxinst", pairwise_warmup=10)
    model = seeded_model(replace(SLIM, num_classes=3)).double()
    sizes = [(128, 128), (100, 96), (128, 128)]
    images = torch.from_numpy(
        np.stack([np.pad(blocky(64, 64, i), ((0, 0), (0, 64), (0, 64)), "wrap") for i in range(3)])
    )
    boxes = [torch.tensor([[8.0, 10, 70, 66], [60, 50, 96, 90]]), torch.tensor([[4.0, 4, 60, 40]]), torch.zeros(0, 4)]
    targets = [ImageTargets(b, torch.zeros(len(b), dtype=torch.int64), box_masks(b, (128, 128))) for b in boxes]
    rules = settings.colours
    assert rules is not None
    similar = similar_neighbours(images, torch.tensor(sizes), rules)
    part = Part(targets, (128, 128), similar)
    (plan,) = plan_step([part], settings, iteration=4)
    normalisers = normalisers_of(sums_of(plan, part, settings), settings, lambda x: x)
    seen: list[tuple[FloatArray, npt.NDArray[np.bool_]]] = []

    def noted(logits: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
        seen.append((logits.detach().numpy(), masks.numpy()))
        return projection_loss(logits, masks)

    with torch.no_grad(), pytest.MonkeyPatch.context() as patch:
        patch.setattr("condinst_deploy.model.losses.projection_loss", noted)
        features = model.features(model.normalize(images, torch.tensor(sizes)))
        losses = losses_of(features, targets, plan, normalisers, LossRules(settings, 8))
    plain = [
        plain_losses(logits, masks, own.numpy(), 2) for (logits, masks), own in zip(seen, similar[:2], strict=True)
    ]
    count = sum(len(logits) for logits, _ in seen)
    assert count > 4
    assert losses.mask.item() == pytest.approx(sum(each[0] for each in plain) / count, rel=1e-6)
    assert losses.pairwise is not None
    weight = (5 if family == "adelaidet" else 4) / 10
    wanted = weight * sum(each[1] for each in plain) / sum(each[2] for each in plain)
    assert losses.pairwise.item() == pytest.approx(wanted, rel=1e-6)


def test_the_pairwise_weight_grows_to_one() -> None:
    settings = LossSettings(kind="boxinst", pairwise_warmup=4)
    assert [settings.pairwise_weight(i) for i in (0, 1, 4, 9)] == [0, 0.25, 1, 1]
    assert replace(settings, family="adelaidet").pairwise_weight(0) == 0.25
    assert replace(settings, pairwise_warmup=0).pairwise_weight(0) == 1
    with pytest.raises(ConfigError, match=r"losses\.color_threshold is 2"):
        LossSettings(kind="boxinst", color_threshold=2)


def test_masks_of_boxes_are_whole_pixels() -> None:
    (mask,) = box_masks(torch.tensor([[1.6, 2.0, 3.2, 4.9]]), (8, 8))
    assert mask.nonzero().tolist() == [[y, x] for y in (2, 3, 4) for x in (1, 2, 3)]


def recipe_of(train: Path, val: Path, iterations: int) -> Recipe:
    """A short run on boxes; the images lie in the folder `train` beside the annotations."""
    images = str(train.parent / "train")
    return Recipe(
        model=replace(TINY, preprocessing=replace(TINY.preprocessing, short_side=64, long_side=64)),
        data=DataSettings(str(train), images, str(val), images, workers=0),
        schedule=ScheduleSettings(iterations=iterations, batch_size=2, warmup_iterations=0, steps=()),
        start=StartSettings(frozen_stages=0),
        losses=LossSettings(kind="boxinst", pairwise_warmup=2),
        short_sides=(64,),
        tensorboard=False,
    )


def test_training_needs_no_masks_in_the_annotations(tmp_path: Path) -> None:
    """A run on boxes alone sees what a run on the whole annotations sees, and its pairwise loss is learnt."""
    annotations = generate_shapes(tmp_path, "train", 4)
    content = json.loads(annotations.read_text())
    for annotation in content["annotations"]:
        del annotation["segmentation"]
    boxes = tmp_path / "boxes.json"
    boxes.write_text(json.dumps(content))
    with pytest.raises(DataError, match="segmentation"):
        CocoDataset(boxes, tmp_path / "train", training=True)
    alone = CocoDataset(boxes, tmp_path / "train", training=True, boxes_only=True)
    whole = CocoDataset(annotations, tmp_path / "train", training=True)
    recipe = replace(recipe_of(boxes, annotations, iterations=3), log_every=1)
    transform = TrainingTransform(recipe.model.preprocessing, (64,), 1.0, boxes_only=True)
    for i in range(len(whole)):
        one, other = (transform(data[i], np.random.default_rng(0)).targets for data in (alone, whole))
        torch.testing.assert_close(one.masks, other.masks)
        torch.testing.assert_close(one.masks, box_masks(one.boxes, (64, 64)))
    sets = open_sets(recipe)
    train(new_run(recipe, manifest_for(recipe, sets), torch.device("cpu")), sets, tmp_path / "run", Reports())
    records = [json.loads(line) for line in (tmp_path / "run" / "history.jsonl").read_text().splitlines()]
    pairwise = [record["loss/pairwise"] for record in records if "loss/pairwise" in record]
    assert pairwise[0] == 0
    assert all(value > 0 for value in pairwise[1:])
    assert "segm/ap" in records[-1]


def test_a_validation_set_without_masks_selects_by_box_ap(tmp_path: Path) -> None:
    annotations = generate_shapes(tmp_path, "train", 2)
    content = json.loads(annotations.read_text())
    for annotation in content["annotations"]:
        annotation["segmentation"] = []
    boxes = tmp_path / "boxes.json"
    boxes.write_text(json.dumps(content))
    recipe = replace(recipe_of(boxes, boxes, iterations=2), evaluate_every=1)
    with pytest.raises(DataError, match=r'boxes\.json has no masks: .* losses\.kind = "boxinst"'):
        open_sets(replace(recipe, losses=LossSettings()))
    notes: list[str] = []
    folder = tmp_path / "run"
    trained = train_model(recipe, TrainOptions(out=folder), Reports(on_note=notes.append))
    assert f"{boxes} has no masks: box AP alone is measured, and selects the best model" in notes
    assert {name.split("/")[0] for name in trained.metrics} == {"iteration", "bbox"}
    assert (folder / "best.pth").exists()
    assert (folder / "curves.png").exists()
    assert (tmp_path / "run" / "model.pth").is_file()
