"""The generated shapes: what the issue asks of them, the committed hash, and sets that are whole or not there."""

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from condinst_deploy.data.coco import CocoDataset, masks_at
from condinst_deploy.data.shape_outlines import rasterised
from condinst_deploy.data.shapes_dataset import (
    VAL_COUNT,
    VALIDATION_SHA256,
    VERSION,
    Scene,
    Shape,
    ShapesConfig,
    coco_document,
    fingerprint_of,
    generate_shapes,
    image_of,
    scene_of,
)
from condinst_deploy.errors import ConfigError, OutputError
from condinst_deploy.masks import Masks

CONFIG = ShapesConfig()
PIXELS_SHA256 = "cb4e0919f19780d57f65bcca7ccf37fc8228ff5fa921807ced5edaf32f348204"
"""Of the first validation image."""


@pytest.fixture(scope="module")
def validation() -> list[Scene]:
    return [scene_of(CONFIG, "val", i) for i in range(VAL_COUNT)]


def whole(scene: Scene, shape: Shape) -> np.ndarray[Any, Any]:
    mask = np.zeros(scene.owner.shape, dtype=bool)
    mask[shape.window] = shape.mask
    return mask


def test_the_validation_set_is_the_committed_one(validation: list[Scene]) -> None:
    assert VAL_COUNT >= 500
    assert hashlib.sha256(coco_document(validation, "val", CONFIG).encode()).hexdigest() == VALIDATION_SHA256


def test_pixels_are_the_same_on_every_machine() -> None:
    pixels = image_of(scene_of(CONFIG, "val", 0), CONFIG, "val", 0)
    assert pixels.shape == (192, 192, 3)
    assert hashlib.sha256(pixels.tobytes()).hexdigest() == PIXELS_SHA256


def test_counts_and_sides_are_in_their_ranges(validation: list[Scene]) -> None:
    counts = np.bincount([len(scene.shapes) for scene in validation], minlength=9)
    assert counts[:2].sum() == 0
    assert len(counts) == 9
    assert (counts[2:] > 30).all()
    sides = np.array([shape.mask.shape for scene in validation for shape in scene.shapes])
    assert sides.min() == 12
    assert 115 < sides.max() <= 120
    labels = np.bincount([shape.label for scene in validation for shape in scene.shapes])
    assert len(labels) == 3
    assert labels.min() > 0.25 * labels.sum()


def test_every_object_stays_visible_enough(validation: list[Scene]) -> None:
    shares = []
    for scene in validation:
        hidden = np.zeros(scene.owner.shape, dtype=bool)
        seen = np.asarray(scene.visible())
        for i, shape in reversed(list(enumerate(scene.shapes))):  # from the front
            mask = whole(scene, shape)
            np.testing.assert_array_equal(seen[i], mask & ~hidden)
            shares.append(np.count_nonzero(mask & ~hidden) / np.count_nonzero(mask))
            hidden |= mask
    assert min(shares) >= 0.4
    assert min(shares) < 0.45
    assert np.mean(np.array(shares) < 0.8) > 0.1


def test_some_objects_have_two_parts(validation: list[Scene]) -> None:
    two = [large_parts(shape) >= 2 for scene in validation[:150] for shape in scene.shapes]
    assert 0.05 < np.mean(two) < 0.2


def large_parts(shape: Shape) -> int:
    outlines = Masks.from_dense(shape.mask[None]).polygons()[0]
    least = 0.2 * np.count_nonzero(shape.mask)
    return sum(abs(np.sum(x * np.roll(y, 1) - y * np.roll(x, 1))) / 2 > least for x, y in (o.T for o in outlines))


def test_concave_stars_and_convex_others(validation: list[Scene]) -> None:
    """A star fills less of its box's turned hull: measured here by the share of the upright box, loosely."""
    fill: dict[int, list[float]] = {0: [], 1: [], 2: []}
    for scene in validation[:150]:
        for shape in scene.shapes:
            fill[shape.label].append(float(shape.mask.mean()))
    assert np.mean(fill[2]) < 0.55 < 0.6 < min(np.mean(fill[0]), np.mean(fill[1]))


def test_colour_does_not_tell_the_class(validation: list[Scene]) -> None:
    colours, labels = [], []
    for i, scene in enumerate(validation[:200]):
        image = image_of(scene, CONFIG, "val", i)
        colours += [image[scene.owner == k].mean(axis=0) for k in range(len(scene.shapes))]
        labels += [shape.label for shape in scene.shapes]
    x, y = np.array(colours), np.array(labels)
    train, test = slice(0, len(y) // 2), slice(len(y) // 2, None)
    centres = np.stack([x[train][y[train] == label].mean(axis=0) for label in range(3)])
    by_mean = np.linalg.norm(x[test][:, None] - centres, axis=2).argmin(axis=1)
    nearest = np.linalg.norm(x[test][:, None] - x[train], axis=2).argmin(axis=1)
    assert np.mean(by_mean == y[test]) < 0.45
    assert np.mean(y[train][nearest] == y[test]) < 0.45


def test_objects_differ_from_what_is_around_them(validation: list[Scene]) -> None:
    distances = []
    for i, scene in enumerate(validation[:100]):
        image = image_of(scene, CONFIG, "val", i).astype(float)
        background = image[scene.owner == -1].mean(axis=0)
        distances += [np.abs(image[scene.owner == k].mean(axis=0) - background).sum() for k in range(len(scene.shapes))]
    assert np.percentile(distances, 5) > 50


def test_splits_seeds_and_indices_give_different_images() -> None:
    def image(config: ShapesConfig, split: Any, index: int) -> bytes:
        return image_of(scene_of(config, split, index), config, split, index).tobytes()

    variants = [image(CONFIG, "val", 0), image(CONFIG, "val", 1), image(CONFIG, "train", 0)]
    variants.append(image(replace(CONFIG, val_seed=3), "val", 0))
    assert len(set(variants)) == 4
    assert image(CONFIG, "val", 0) == variants[0], "the order of generation decides"


def test_rasterising_is_the_even_odd_rule_at_pixel_centres() -> None:
    rng = np.random.default_rng(5)
    for _ in range(20):
        outline = rng.integers(0, 20 * 16, (rng.integers(3, 9), 2))
        mask = rasterised(outline)
        for row, column in np.ndindex(mask.shape):
            assert mask[row, column] == inside(outline.tolist(), 16 * column + 8, 16 * row + 8), (outline, row, column)


def inside(outline: list[list[int]], x: int, y: int) -> bool:
    result = False
    for (x1, y1), (x2, y2) in zip(outline, outline[1:] + outline[:1], strict=True):
        if (y1 <= y) != (y2 <= y) and (y - y1) * (x2 - x1) / (y2 - y1) + x1 < x:
            result = not result
    return result


def test_a_written_set_reads_back_as_its_scenes(tmp_path: Path) -> None:
    done: list[tuple[int, int]] = []
    path = generate_shapes(tmp_path, "val", 6, on_progress=lambda i, n: done.append((i, n)))
    assert done == [(i, 6) for i in range(1, 7)]
    assert path == tmp_path / "val.json"
    data = CocoDataset(path, tmp_path / "val", training=True)
    assert (data.class_names, data.category_ids) == (("ellipse", "rectangle", "star"), (1, 2, 3))
    assert len(data) == 6
    for i in range(6):
        scene, sample = scene_of(CONFIG, "val", i), data[i]
        np.testing.assert_array_equal(sample.image, image_of(scene, CONFIG, "val", i))
        masks = masks_at(sample, (192, 192))
        np.testing.assert_array_equal(masks, np.asarray(scene.visible()))
        for box, label, mask, shape in zip(sample.boxes, sample.labels, masks, scene.shapes, strict=True):
            assert label == shape.label
            rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
            assert box.tolist() == [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]


def test_a_finished_set_is_left_alone_and_another_is_made_again(tmp_path: Path) -> None:
    def images() -> dict[str, int]:
        return {p.name: p.stat().st_mtime_ns for p in (tmp_path / "train").iterdir()}

    path = generate_shapes(tmp_path, "train", 3)
    first, text = images(), path.read_bytes()
    assert generate_shapes(tmp_path, "train", 3) == path
    assert images() == first
    generate_shapes(tmp_path, "train", 2, ShapesConfig(train_seed=9))
    assert len(images()) == 2
    assert path.read_bytes() != text
    generate_shapes(tmp_path, "train", 3)
    assert path.read_bytes() == text
    (tmp_path / "train" / "000002.png").unlink()
    generate_shapes(tmp_path, "train", 3)
    assert images().keys() == first.keys()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["train", "train.json", "train.stamp"]


def test_an_interrupted_set_is_not_there_and_keeps_the_former(tmp_path: Path) -> None:
    def interrupt(done: int, _: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate_shapes(tmp_path, "val", 3, on_progress=interrupt)
    assert list(tmp_path.iterdir()) == []
    path = generate_shapes(tmp_path, "val", 3)
    before = path.read_bytes()
    with pytest.raises(KeyboardInterrupt):
        generate_shapes(tmp_path, "val", 4, on_progress=interrupt)
    assert path.read_bytes() == before
    assert len(list((tmp_path / "val").iterdir())) == 3


def test_what_a_killed_run_left_is_removed_by_the_next(tmp_path: Path) -> None:
    left = tmp_path / ".val.0123456789abcdef.partial"
    left.mkdir()
    (left / "000001.png").touch()
    generate_shapes(tmp_path, "val", 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["val", "val.json", "val.stamp"]


def test_two_runs_do_not_write_one_set(tmp_path: Path) -> None:
    def second(done: int, count: int) -> None:
        with pytest.raises(ConfigError, match="another run is writing into"):
            generate_shapes(tmp_path, "val", 2)

    annotations = generate_shapes(tmp_path, "val", 2, on_progress=second)
    assert len(CocoDataset(annotations, tmp_path / "val", training=False).paths) == 2


def test_a_set_that_is_not_generated_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "val").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "val" / "mine.png")
    with pytest.raises(OutputError, match="no generated set; choose another folder"):
        generate_shapes(tmp_path, "val", 1)
    assert (tmp_path / "val" / "mine.png").exists()
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be written"):
        generate_shapes(tmp_path / "file", "val", 1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"objects": (0, 3)}, "objects are"),
        ({"objects": (4, 3)}, "objects are"),
        ({"sides": (12, 193)}, r"in 4\.\.192"),
        ({"min_visible": 1.5}, "min_visible is 1.5"),
        ({"noise": -1}, "noise is -1"),
        ({"train_seed": 2}, "both splits have seed 2"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ShapesConfig(**settings)


def test_objects_that_do_not_fit_and_empty_sets_are_refused(tmp_path: Path) -> None:
    crowded = ShapesConfig(objects=(30, 30), sides=(100, 120), min_visible=1.0)
    with pytest.raises(ConfigError, match="objects find room in an image"):
        scene_of(crowded, "val", 0)
    with pytest.raises(ConfigError, match="count of images is 0"):
        generate_shapes(tmp_path, "val", 0)


def test_a_new_version_of_the_generator_makes_sets_again(tmp_path: Path) -> None:
    generate_shapes(tmp_path, "val", 1)
    (tmp_path / "val.stamp").write_text(fingerprint_of("val", 1, ShapesConfig(), VERSION - 1))
    made: list[int] = []
    generate_shapes(tmp_path, "val", 1, on_progress=lambda i, _: made.append(i))
    assert made == [1]
