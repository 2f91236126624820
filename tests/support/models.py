"""Seeded models and reference outputs for the tests."""

import ast
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from condinst_deploy.contract import InstanceDetections, ModelManifest, Preprocessing, contiguous_ids
from condinst_deploy.evaluation.agreement import Tolerance
from condinst_deploy.masks import Masks
from condinst_deploy.model.condinst import CondInst
from condinst_deploy.model.config import CondInstConfig
from condinst_deploy.model.family_settings import ADELAIDET_SELECTION
from tests.golden.seeded_weights import seeded_state_dict

GOLDEN = Path(__file__).parents[1] / "golden"
GOLDEN_CASES = {
    "coffee": ["coffee"],
    "astronaut": ["astronaut"],
    "batch_coffee_astronaut": ["coffee", "astronaut"],
}
"""Golden outputs that both references have, and the images of each."""
EAGER_TOLERANCE = Tolerance(boxes=0.01, scores=1e-5, mask_iou=0.999)
"""Of the reference model beside the golden outputs."""
EXPORTED_TOLERANCE = Tolerance(boxes=0.02, scores=2e-5, mask_iou=0.999)
"""Of networks with fixed slots (exported files, kernels), whose sums have another order."""
IMAGES = GOLDEN / "images"
SHIPPED = GOLDEN.parents[1] / "demo" / "shapes_slim.pth"
"""The trained model that ships."""

SLIM = CondInstConfig(
    num_classes=3,
    depth=50,
    base_width=16,
    fpn_channels=64,
    mask_branch_channels=32,
    preprocessing=Preprocessing(short_side=128, long_side=224),
)
"""R-50's layout at a quarter of the width, for small images."""

ADELAIDET_KEYS = {
    "MS_R_50": ("MS_R_50_1x",),
    "MS_R_50_sem": ("MS_R_50_3x_sem",),
    "MS_R_101": ("MS_R_101_1x",),
    "MS_R_101_sem": ("MS_R_101_1x", "MS_R_50_3x_sem"),
    "MS_R_50_BiFPN_sem": ("MS_R_50_BiFPN_3x_sem",),
}
"""Architectures of AdelaiDet -> the lists that hold their keys, of the second one the semantic head's alone."""

DEEPER = {"MS_R_101_sem": "MS_R_101_3x_sem", "MS_R_50_BiFPN_sem": "MS_R_50_BiFPN_3x_sem"}
"""Those with a golden output of their own -> its name in the file's name."""

SLIM_ADELAIDET = replace(
    SLIM,
    stride_in_1x1=True,
    preprocessing=Preprocessing(std=(1.0, 1.0, 1.0), short_side=128, long_side=224, family="adelaidet"),
    selection=ADELAIDET_SELECTION,
)
SLIMMER = replace(SLIM, depth=18, base_width=8, tower_convs=1, mask_branch_channels=16, mask_branch_convs=1)
"""The smallest model that is exported and built; its images are as small as `SLIM`'s."""

TINY = CondInstConfig(
    num_classes=3,
    depth=18,
    base_width=8,
    fpn_channels=64,
    tower_convs=1,
    mask_branch_channels=8,
    mask_branch_convs=1,
)
"""As small as a model can be, where the layout does not matter; sizes of images are the published ones."""

TINY_ADELAIDET = replace(
    TINY,
    depth=50,
    stride_in_1x1=True,
    bifpn_repeats=2,
    preprocessing=Preprocessing(std=(1.0, 1.0, 1.0), short_side=96, long_side=96, family="adelaidet"),
    selection=ADELAIDET_SELECTION,
)

SLIM_BIFPN = replace(SLIM_ADELAIDET, neck="bifpn", bifpn_repeats=2, semantic_head=True)
SLIM_KINDS = {
    "mmdet": SLIM,
    "mmdet BoxInst": replace(SLIM, mask_channels=16, dynamic_channels=16),
    "adelaidet": SLIM_ADELAIDET,
    "adelaidet BoxInst": replace(SLIM_ADELAIDET, mask_channels=16),
    "adelaidet BiFPN sem": SLIM_BIFPN,
}
"""One slim model of every kind of graph."""

ALIASES = (
    (r"box_pred", "bbox_pred"),
    (r"centerness", "ctrness"),
    (r"scales\.(\d)$", r"scales.\1.scale"),
    (r"semantic\.2", r"semantic.logits"),
    (r"\.weights$", r".weights_f0"),
)
"""Our names -> names that the generator of seeded weights has rules for."""

SlimFiles = Callable[[str], tuple[Path, Path]]
"""Kind -> its checkpoint and its exported file (the fixture `slim_files`)."""

RAW_STEM = (r"^backbone\.conv1", "backbone.stem.conv1")
"""The same for a network that sees pixels which were not divided by a standard deviation."""


def seeded_model(config: CondInstConfig = SLIM, seed: int = 0) -> CondInst:
    """A model whose weights are made from names, shapes and a seed; it detects something in most images."""
    model = CondInst(config)
    aliases = (*ALIASES, RAW_STEM) if config.family == "adelaidet" else ALIASES
    names = {}
    for key in model.state_dict():
        alias = key
        for pattern, replacement in aliases:
            alias = re.sub(pattern, replacement, alias)
        names[alias] = key
    shapes = {alias: tuple(model.state_dict()[key].shape) for alias, key in names.items()}
    arrays = seeded_state_dict(shapes, seed)
    model.load_state_dict({names[alias]: torch.from_numpy(np.asarray(array)) for alias, array in arrays.items()})
    return model.eval()


def manifest_of(config: CondInstConfig = SLIM) -> ModelManifest:
    """A manifest with class names a, b, c, ..."""
    names = tuple(f"class {chr(97 + i % 26)}{i // 26 or ''}" for i in range(config.num_classes))
    return ModelManifest(
        class_names=names,
        category_ids=contiguous_ids(names),
        family=config.family,
        preprocessing=config.preprocessing,
        selection=config.selection,
        tools={"condinst-deploy": "0"},
    )


def mmdet_shapes() -> dict[str, tuple[int, ...]]:
    """Key -> shape of mmdetection's R-50 CondInst."""
    return _listed_shapes(GOLDEN / "mmdet" / "state_dict_keys.txt")


def mmdet_state(seed: int = 0) -> dict[str, torch.Tensor]:
    """Weights that mmdetection made its golden outputs with."""
    return seeded_state(mmdet_shapes(), seed)


def adelaidet_shapes(architecture: str) -> dict[str, tuple[int, ...]]:
    """Key -> shape of AdelaiDet's CondInst of an architecture of `ADELAIDET_KEYS`."""
    own, *heads = (
        _listed_shapes(GOLDEN / "adelaidet" / f"state_dict_keys_{name}.txt") for name in ADELAIDET_KEYS[architecture]
    )
    semantic = ("mask_branch.seg_head.", "mask_branch.logits.")
    return own | {key: shape for head in heads for key, shape in head.items() if key.startswith(semantic)}


def adelaidet_state(architecture: str, seed: int = 0) -> dict[str, torch.Tensor]:
    """Weights that AdelaiDet made its golden outputs with."""
    return seeded_state(adelaidet_shapes(architecture), seed)


def seeded_state(shapes: dict[str, tuple[int, ...]], seed: int) -> dict[str, torch.Tensor]:
    """Tensors made from names, shapes and a seed."""
    arrays = seeded_state_dict(shapes, seed)
    return {key: torch.from_numpy(np.asarray(array)) for key, array in arrays.items()}


def _listed_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    rows = (line.split("\t") for line in path.read_text().splitlines())
    return {key: ast.literal_eval(shape) for key, shape, *_ in rows}


def golden_detections(archive: Any, image: int) -> InstanceDetections:
    """Return mmdetection's detections in one image."""
    n, height, width = archive[f"{image}.mask_shape"]
    bits = np.unpackbits(archive[f"{image}.mask_bits"], axis=1)[:, : height * width]
    return _detections(archive, f"{image}.", "labels", bits.reshape(n, height, width))


def adelaidet_detections(archive: Any, image: int) -> InstanceDetections:
    """Return AdelaiDet's detections in one image."""
    width = archive[f"im{image}_original_hw"][1]
    masks = np.unpackbits(archive[f"im{image}_masks_packed"], axis=2)[:, :, :width]
    return _detections(archive, f"im{image}_", "classes", masks)


GOLDEN_READERS = {"mmdet": golden_detections, "adelaidet": adelaidet_detections}
"""Family -> the function that reads its golden outputs."""


def _detections(archive: Any, prefix: str, labels: str, masks: np.ndarray[Any, Any]) -> InstanceDetections:
    names = tuple(str(i) for i in range(80))
    return InstanceDetections(
        boxes=archive[f"{prefix}boxes"],
        scores=archive[f"{prefix}scores"],
        labels=archive[f"{prefix}{labels}"].astype(np.int64),
        masks=Masks.from_dense(masks),
        class_names=names,
        category_ids=contiguous_ids(names),
    )


def noise_image(seed: int, height: int, width: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """A blotchy RGB image, the same for the same seed."""
    from PIL import Image

    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (max(2, height // 16), max(2, width // 16), 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC), dtype=np.int16)
    return (smooth + rng.integers(-20, 21, smooth.shape)).clip(0, 255).astype(np.uint8)
