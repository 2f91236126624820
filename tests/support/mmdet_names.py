"""mmdetection's names of a model's parts, for checkpoints of the tests, written independently of the key tables."""

from collections import OrderedDict

from torch import Tensor

from condinst_deploy.model.condinst import CondInst

HEAD_PARTS = {
    "cls_tower": "cls_convs",
    "box_tower": "reg_convs",
    "cls_logits": "conv_cls",
    "box_pred": "conv_reg",
    "centerness": "conv_centerness",
    "controller": "controller",
    "scales": "scales",
}


def mmdet_key(key: str) -> str:
    """The name that mmdetection gives what this model calls `key`."""
    module, part, *rest = key.split(".")
    if module == "backbone":
        return key
    if module == "fpn":
        if part == "lateral":
            return ".".join(["neck.lateral_convs", rest[0], "conv", *rest[1:]])
        if part == "output":
            return ".".join(["neck.fpn_convs", rest[0], "conv", *rest[1:]])
        return ".".join(["neck.fpn_convs", {"p6": "3", "p7": "4"}[part], "conv", *rest])
    if module == "head":
        rest = ["gn" if name == "norm" else name for name in rest]
        return ".".join(["bbox_head", HEAD_PARTS[part], *rest] + (["scale"] if part == "scales" else []))
    rest = ["bn" if name == "norm" else name for name in rest]
    if part == "refine":
        rest = [rest[0], f"conv{rest[0]}", *rest[1:]]
    names = {"refine": "convs_all_levels", "tower": "conv_branch", "features": "conv_pred"}
    return ".".join(["mask_head.mask_feature_head", names[part], *rest])


def mmdet_state_of(model: CondInst) -> OrderedDict[str, Tensor]:
    return OrderedDict((mmdet_key(key), value) for key, value in model.state_dict().items())
