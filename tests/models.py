"""Seeded models and reference outputs for the tests."""

import ast
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch

from condinst_deploy.contract import InstanceDetections, ModelManifest, Preprocessing, contiguous_ids
from condinst_deploy.masks import Masks
from condinst_deploy.model.condinst import CondInst
from condinst_deploy.model.config import CondInstConfig
from tests.golden.seeded_weights import seeded_state_dict

GOLDEN = Path(__file__).parent / "golden"
PICTURES = GOLDEN / "images"

SLIM = CondInstConfig(
    num_classes=3,
    depth=50,
    base_width=16,
    fpn_channels=64,
    mask_branch_channels=32,
    preprocessing=Preprocessing(short_side=128, long_side=224),
)
"""R-50's layout at a quarter of the width, for small pictures."""

ALIASES = ((r"box_pred", "bbox_pred"), (r"centerness", "ctrness"), (r"scales\.(\d)$", r"scales.\1.scale"))
"""Our names -> names that the generator of seeded weights has rules for."""


def seeded_model(config: CondInstConfig = SLIM, seed: int = 0) -> CondInst:
    """A model whose weights are made from names, shapes and a seed; it detects something in most pictures."""
    model = CondInst(config)
    names = {}
    for key in model.state_dict():
        alias = key
        for pattern, replacement in ALIASES:
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
        preprocessing=config.preprocessing,
        selection=config.selection,
        tools={"condinst-deploy": "0"},
    )


def mmdet_shapes() -> dict[str, tuple[int, ...]]:
    """Key -> shape of mmdetection's R-50 CondInst."""
    rows = (line.split("\t") for line in (GOLDEN / "mmdet" / "state_dict_keys.txt").read_text().splitlines())
    return {key: ast.literal_eval(shape) for key, shape, _ in rows}


def mmdet_state(seed: int = 0) -> dict[str, torch.Tensor]:
    """Weights that mmdetection made its golden outputs with."""
    arrays = seeded_state_dict(mmdet_shapes(), seed)
    return {key: torch.from_numpy(np.asarray(array)) for key, array in arrays.items()}


def golden_detections(archive: Any, image: int) -> InstanceDetections:
    """What mmdetection found in one picture."""
    n, height, width = archive[f"{image}.mask_shape"]
    bits = np.unpackbits(archive[f"{image}.mask_bits"], axis=1)[:, : height * width]
    names = tuple(str(i) for i in range(80))
    return InstanceDetections(
        boxes=archive[f"{image}.boxes"],
        scores=archive[f"{image}.scores"],
        labels=archive[f"{image}.labels"].astype(np.int64),
        masks=Masks.from_dense(bits.reshape(n, height, width)),
        class_names=names,
        category_ids=contiguous_ids(names),
    )


def noise_picture(seed: int, height: int, width: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """A blotchy RGB picture, the same for the same seed."""
    from PIL import Image

    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (max(2, height // 16), max(2, width // 16), 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC), dtype=np.int16)
    return (smooth + rng.integers(-20, 21, smooth.shape)).clip(0, 255).astype(np.uint8)
