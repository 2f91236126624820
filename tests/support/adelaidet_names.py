"""AdelaiDet's names of a model's parts, for checkpoints of the tests, written independently of the key tables."""

import re

import torch
from torch import Tensor

from condinst_deploy.model.condinst import CondInst
from condinst_deploy.model.config import CondInstConfig

NODES = ("3_3_4", "2_2_5", "1_1_6", "0_0_7", "1_1_7_8", "2_2_6_9", "3_3_5_10", "4_4_11")


def adelaidet_key(key: str, config: CondInstConfig) -> str:
    """The name that AdelaiDet gives what this model calls `key`."""
    module, rest = key.split(".", 1)
    return {"backbone": _backbone_key, "fpn": _fpn_key, "head": _head_key, "mask_branch": _branch_key}[module](
        rest, config
    )


def _backbone_key(key: str, config: CondInstConfig) -> str:
    prefix = "backbone.bottom_up." + ("backbone." if config.neck == "bifpn" else "")
    if not key.startswith("layer"):
        return prefix + "stem." + key.replace("bn1", "conv1.norm")
    layer, block, rest = key.split(".", 2)
    rest = rest.replace("downsample.0", "shortcut").replace("downsample.1", "shortcut.norm")
    rest = re.sub(r"bn(\d)", r"conv\1.norm", rest)
    return f"{prefix}res{int(layer[-1]) + 1}.{block}.{rest}"


def _fpn_key(key: str, config: CondInstConfig) -> str:
    part, *rest = key.split(".")
    if config.neck == "fpn":
        if part in ("p6", "p7"):
            return ".".join(["backbone.top_block", part, *rest])
        return ".".join([f"backbone.fpn_{part}{int(rest[0]) + 3}", *rest[1:]])
    if part == "reduction":
        return ".".join(["backbone.bottom_up.res6.reduction", *(["norm"] if rest[0] == "1" else []), *rest[1:]])
    if part == "lateral":
        name = f"backbone.repeated_bifpn.0.lateral_{rest[0]}_f{rest[0]}"
        return ".".join([name, *(["norm"] if rest[1] == "1" else []), *rest[2:]])
    repeat, node, leaf, *rest = rest
    name = f"backbone.repeated_bifpn.{repeat}.{'weights' if leaf == 'weights' else 'outputs'}_f{NODES[int(node)]}"
    return ".".join([name, *(["norm"] if leaf == "norm" else []), *rest])


def _head_key(key: str, config: CondInstConfig) -> str:
    part, *rest = key.split(".")
    if part == "controller":
        return key
    if part.endswith("tower"):
        index = 3 * int(rest[0]) + (rest[1] == "norm")
        name = {"cls_tower": "cls_tower", "box_tower": "bbox_tower"}[part]
        return f"proposal_generator.fcos_head.{name}.{index}.{rest[2]}"
    names = {"cls_logits": "cls_logits", "box_pred": "bbox_pred", "centerness": "ctrness", "scales": "scales"}
    return ".".join(["proposal_generator.fcos_head", names[part], *rest] + (["scale"] if part == "scales" else []))


def _branch_key(key: str, config: CondInstConfig) -> str:
    part, *rest = key.split(".")
    if part == "features":
        return f"mask_branch.tower.{config.mask_branch_convs}.{rest[0]}"
    if part == "semantic" and rest[0] == "2":
        return f"mask_branch.logits.{rest[1]}"
    name = "seg_head" if part == "semantic" else part
    return ".".join(["mask_branch", name, rest[0], {"conv": "0", "norm": "1"}[rest[1]], *rest[2:]])


def adelaidet_state_of(model: CondInst) -> dict[str, Tensor]:
    """Return the state that AdelaiDet would save of this model."""
    state = {}
    for key, value in model.state_dict().items():
        if key.startswith("backbone.") and key.endswith("num_batches_tracked"):
            continue  # its frozen norms count nothing
        value = value.flip(1) if key == "backbone.conv1.weight" else value
        state[adelaidet_key(key, model.config)] = value[None] if key.startswith("head.scales") else value
    return state | {
        "mask_head.sizes_of_interest": torch.tensor([64, 128, 256, 512, 1024]),
        "mask_head._iter": torch.zeros(1),
    }
