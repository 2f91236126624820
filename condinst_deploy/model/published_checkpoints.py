"""Recognition of published checkpoints: the family by keys, the architecture by shapes of tensors."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from condinst_deploy.contract import Family, Preprocessing, contiguous_ids, default_class_names
from condinst_deploy.contract.coco_classes import COCO_CLASSES
from condinst_deploy.errors import CheckpointError, ConfigError
from condinst_deploy.model.config import BLOCKS, CondInstConfig, hidden_width
from condinst_deploy.model.family_settings import ADELAIDET_PREPROCESSING, ADELAIDET_SELECTION
from condinst_deploy.model.key_prefixes import unwrapped, weights_in
from condinst_deploy.model.mmdet_config import own_selection
from condinst_deploy.model.safe_load import Inert
from condinst_deploy.model.weight_names import ADELAIDET_BACKBONE, renamed
from condinst_deploy.shown_text import counted
from condinst_deploy.support.validation import printable

MARKERS: dict[Family, str] = {"mmdet": "bbox_head.controller.weight", "adelaidet": "controller.weight"}
"""A key that every CondInst model of the family has, and no other model."""

FCOS_PARTS = ("bbox_head.conv_centerness.", "proposal_generator.fcos_head.")
"""Prefixes of keys that CondInst and FCOS share, in mmdetection and AdelaiDet."""

FULL_NAMES: dict[Family, str] = {"mmdet": "mmdetection", "adelaidet": "AdelaiDet"}

BOTTOM_UP = re.compile(r"^(?:backbone\.bottom_up\.)?(?:backbone\.)?")  # BiFPN's has another one inside
DEFORMABLE = re.compile(r"(?:.*[._])?offset(?:_mask)?\.(?:weight|bias)")
"""Keys of the offsets of deformable convolutions: detectron2's `conv2_offset`, mmcv's `conv2.conv_offset`.

mmcv's older files call them `conv2.conv_offset_mask`.
"""

STEM = re.compile(rf"{BOTTOM_UP.pattern}stem\.conv1\.weight")
SCALE = re.compile(r"proposal_generator\.fcos_head\.scales\.\d+\.scale")

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, eq=False)
class PublishedModel:
    """A checkpoint of one of the reference implementations, before its weights are loaded."""

    family: Family
    config: CondInstConfig
    state: Mapping[str, Any]  # their keys; tensors laid out as ours
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    note: str  # one sentence on what was recognised


class ResNetWeights(NamedTuple):
    """A trained ResNet under torchvision's names, its pixels RGB."""

    family: Family  # whose models begin with it: torchvision's mmdetection's, MSRA's in detectron2's names AdelaiDet's
    state: dict[str, Any]


def published_model(path: Path, content: Mapping[Any, Any], family: Family | None = None) -> PublishedModel:
    """Recognise a checkpoint.

    Args:
        path: for messages.
        content: what the file holds.
        family: the family that it must be of; None: recognised by the keys.

    Raises:
        CheckpointError: it is no CondInst model of the family (of any), or its tensors describe none.
    """
    state, prefix_remark = unwrapped(path, weights_in(content))
    found = _family(path, state, family)
    _check_plain(path, state)
    shapes = {key: tuple(value.shape) for key, value in state.items() if isinstance(value, Tensor)}
    try:
        config = _adelaidet_config(shapes) if found == "adelaidet" else _mmdet_config(shapes, state)
    except ConfigError as e:
        raise CheckpointError(f"{path} is not a complete CondInst model of {FULL_NAMES[found]}: {e}") from e
    names, ids, remark = _classes(content, config.num_classes)
    thresholds = "sizes and thresholds are the published configuration's"
    own = own_selection(_meta(content), config.selection) if found == "mmdet" else None
    if own is not None:
        config, thresholds = replace(config, selection=own.selection), f"sizes are the published ones; {own.remark}"
    note = (
        f"{FULL_NAMES[found]} CondInst, {config.title}, {counted(config.num_classes, 'class')}{remark};"
        f" {thresholds}{prefix_remark}"
    )
    state = in_our_layout(state) if found == "adelaidet" else state
    return PublishedModel(found, config, state, names, ids, note)


def in_our_layout(state: Mapping[str, Any]) -> dict[str, Any]:
    """AdelaiDet's tensors with the stem's channels as RGB instead of BGR, and scales without an axis."""
    laid_out = dict(state)
    for key, value in state.items():
        if not isinstance(value, Tensor) or value.layout is not torch.strided:
            continue
        if STEM.fullmatch(key) and value.ndim == 4:
            laid_out[key] = value.flip(1)
        elif SCALE.fullmatch(key) and value.shape == (1,):
            laid_out[key] = value.squeeze(0)
    return laid_out


def resnet_weights(path: Path, content: Mapping[Any, Any]) -> ResNetWeights:
    """The ResNet of a file of torchvision's or of detectron2's names; `path` is for messages.

    Other parts of a detectron2 or AdelaiDet model, and torchvision's classifier, are left out.

    Raises:
        CheckpointError: it has deformable convolutions, or is a whole model of mmdetection's or of this toolkit's.
    """
    state, _ = unwrapped(path, weights_in(content))
    _check_plain(path, state)
    if not any(STEM.fullmatch(key) for key in state):
        _check_alone(path, state)
        return ResNetWeights("mmdet", {key: value for key, value in state.items() if not key.startswith("fc.")})
    state = {BOTTOM_UP.sub("", key): value for key, value in in_our_layout(state).items()}
    ours, _ = renamed(list(state), ADELAIDET_BACKBONE)
    return ResNetWeights("adelaidet", {own: state[theirs] for theirs, own in ours.items()})


def _family(path: Path, state: Mapping[str, Any], family: Family | None) -> Family:
    """The family of a state dict whose values are all tensors."""
    found = next((candidate for candidate, marker in MARKERS.items() if marker in state), None)
    if found is None:
        expected = "mmdetection's or AdelaiDet's" if family is None else f"{FULL_NAMES[family]}'s"
        raise CheckpointError(
            f"{path} {_foreign(state)}; expected {expected} CondInst or a checkpoint saved by this toolkit"
        )
    if family not in (None, found):
        raise CheckpointError(f"{path} is a model of the family {found}; expected {family}")
    objects = [key for key, value in state.items() if isinstance(value, Inert)]
    if objects:
        raise CheckpointError(
            f"{path} holds {counted(len(objects), 'weight')} without a tensor, such as numpy arrays (the first:"
            f" {objects[0]}); save each as torch.as_tensor(value)"
        )
    return found


def _check_plain(path: Path, state: Mapping[str, Any]) -> None:
    """Raise a `CheckpointError` if the network has deformable convolutions."""
    offsets = [key for key in state if DEFORMABLE.fullmatch(key)]
    if offsets:
        raise CheckpointError(
            f"{path} has deformable convolutions ({counted(len(offsets), 'tensor')} of offsets, the first:"
            f" {offsets[0]}), which are not supported; expected a variant with plain convolutions"
            " (docs/models.md lists them)"
        )


def _check_alone(path: Path, state: Mapping[str, Any]) -> None:
    """Raise a `CheckpointError` if there is a model around the ResNet."""
    others = sorted({key.partition(".")[0] for key in state if not key.startswith("backbone.")})
    if others and any(key.startswith("backbone.") for key in state):
        raise CheckpointError(
            f"{path} is a whole model (it has backbone and {', '.join(part[:40] for part in others[:5])}); expected a"
            " ResNet alone: fine-tune the model with --weights"
        )


def _foreign(state: Mapping[str, Any]) -> str:
    """Return a message about weights that are not of a CondInst."""
    if any(key.startswith(FCOS_PARTS) for key in state):
        return "is FCOS without a controller, which finds boxes and no masks"
    first = ", ".join(key[:80] for key in list(state)[:3]) or "none"
    return f"has none of the keys of a CondInst model (its first keys: {first})"


def _mmdet_config(shapes: Shapes, state: Mapping[str, Any]) -> CondInstConfig:
    branch = "mask_head.mask_feature_head."
    mask_channels = _side(shapes, f"{branch}conv_pred.weight", 0)
    return CondInstConfig(
        num_classes=_side(shapes, "bbox_head.conv_cls.weight", 0),
        depth=_depth(shapes, r"backbone\.layer([1-4])\.(\d+)\.", "backbone.layer1.0.conv3.weight"),
        base_width=_side(shapes, "backbone.conv1.weight", 0),
        fpn_channels=_side(shapes, "neck.lateral_convs.0.conv.weight", 0),
        tower_convs=_count(shapes, r"bbox_head\.cls_convs\.(\d+)\.conv\.weight"),
        mask_branch_channels=_side(shapes, f"{branch}conv_pred.weight", 1),
        mask_branch_convs=_count(shapes, r"mask_head\.mask_feature_head\.conv_branch\.(\d+)\.conv\.weight"),
        mask_channels=mask_channels,
        dynamic_channels=_hidden_width(shapes, MARKERS["mmdet"], mask_channels),
        preprocessing=_mmdet_preprocessing(state),
    )


def _adelaidet_config(shapes: Shapes) -> CondInstConfig:
    bifpn = _count(shapes, r"backbone\.repeated_bifpn\.(\d+)\..+")
    resnet = f"backbone.bottom_up.{'backbone.' if bifpn else ''}"
    depth = _depth(shapes, rf"{re.escape(resnet)}res([2-5])\.(\d+)\.", f"{resnet}res2.0.conv3.weight")
    branch_convs = _count(shapes, r"mask_branch\.tower\.(\d+)\.0\.weight")
    mask_channels = _side(shapes, f"mask_branch.tower.{branch_convs}.weight", 0)
    config = CondInstConfig(
        num_classes=_side(shapes, "proposal_generator.fcos_head.cls_logits.weight", 0),
        depth=depth,
        base_width=_side(shapes, f"{resnet}stem.conv1.weight", 0),
        stride_in_1x1=depth >= 50,
        fpn_channels=_side(shapes, "controller.weight", 1),
        # a convolution's weight has four axes, a norm's has one
        tower_convs=_count(shapes, r"proposal_generator\.fcos_head\.cls_tower\.(\d+)\.weight", axes=4),
        mask_branch_channels=_side(shapes, "mask_branch.refine.0.0.weight", 0),
        mask_branch_convs=branch_convs,
        mask_channels=mask_channels,
        dynamic_channels=_hidden_width(shapes, MARKERS["adelaidet"], mask_channels),
        semantic_head="mask_branch.logits.weight" in shapes,
        preprocessing=ADELAIDET_PREPROCESSING,
        selection=ADELAIDET_SELECTION,
    )
    return replace(config, neck="bifpn", bifpn_repeats=bifpn) if bifpn else config


def _depth(shapes: Shapes, block: str, bottleneck_key: str) -> int:
    """Depth of the ResNet with so many blocks a layer; `block` matches a block's layer and index."""
    found = {match.groups() for match in map(re.compile(block).match, shapes) if match}
    counts = tuple(sum(layer == own for layer, _ in found) for own in sorted({layer for layer, _ in found}))
    bottleneck = bottleneck_key in shapes
    depths = [depth for depth, blocks in BLOCKS.items() if blocks == counts and (depth >= 50) == bottleneck]
    if not depths:
        raise ConfigError(
            f"its backbone has {counts} {'bottleneck' if bottleneck else 'basic'} blocks;"
            f" expected a ResNet of depth {sorted(BLOCKS)}"
        )
    return depths[0]


def _hidden_width(shapes: Shapes, controller: str, mask_channels: int) -> int:
    """Hidden channels of the dynamic mask head, from the number of parameters that the controller predicts."""
    num_params = _side(shapes, controller, 0)
    width = hidden_width(mask_channels, num_params)
    if width is None:
        raise ConfigError(
            f"its controller predicts {num_params} parameters, which do not make a mask head of three layers over"
            f" {mask_channels} mask channels and two coordinates; other mask heads are not supported"
        )
    return width


def _side(shapes: Shapes, key: str, axis: int) -> int:
    """Length of a tensor's axis."""
    if key not in shapes:
        raise ConfigError(f"expected a tensor {key}")
    if len(shapes[key]) <= axis:
        raise ConfigError(f"expected a tensor {key} of {axis + 1} axes or more; its shape is {shapes[key]}")
    return shapes[key][axis]


def _count(shapes: Shapes, pattern: str, axes: int | None = None) -> int:
    """Return the number of different indices that match a pattern's first group, among tensors of so many axes."""
    matches = ((re.fullmatch(pattern, key), shape) for key, shape in shapes.items())
    return len({match[1] for match, shape in matches if match and axes in (None, len(shape))})


def _mmdet_preprocessing(state: Mapping[str, Any]) -> Preprocessing:
    """The published preprocessing, with the file's own mean and std (RGB) where it has them."""
    own: dict[str, tuple[float, ...]] = {}
    for name in ("mean", "std"):
        value = state.get(f"data_preprocessor.{name}")
        if isinstance(value, Tensor) and value.numel() == 3:
            own[name] = tuple(value.flatten().tolist())
    try:
        return Preprocessing.from_dict(own)
    except ConfigError as e:
        raise ConfigError(f"its data_preprocessor cannot be used: {e}") from e


def _meta(content: Mapping[Any, Any]) -> dict[Any, Any]:
    """Metadata of mmdetection's file."""
    meta = content.get("meta")
    return meta if isinstance(meta, dict) else {}


def _classes(content: Mapping[Any, Any], num_classes: int) -> tuple[tuple[str, ...], tuple[int, ...], str]:
    """Class names and ids from `meta`, where mmdetection 3 (`dataset_meta`) and 2 (`CLASSES`) put them.

    AdelaiDet's files name none. Also a remark for the user where the file does not name the model's classes.
    """
    meta = _meta(content)
    dataset = meta.get("dataset_meta")
    places = [dataset.get("classes"), dataset.get("CLASSES")] if isinstance(dataset, dict) else [meta.get("CLASSES")]
    named: list[Any] | tuple[Any, ...] = next((one for one in places if isinstance(one, list | tuple) and one), ())
    names = tuple(printable(n) for n in named if isinstance(n, str))
    remark = ""
    if len(names) != num_classes:
        is_coco = num_classes == len(COCO_CLASSES)
        names = tuple(COCO_CLASSES.values()) if is_coco else default_class_names(num_classes)
        remark = f" (the file does not name them: {'taken for COCO' if is_coco else 'see --class-names'})"
    ids = tuple(COCO_CLASSES) if names == tuple(COCO_CLASSES.values()) else contiguous_ids(names)
    return names, ids, remark
