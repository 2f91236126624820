"""Tables of weight names: a published checkpoint's keys and this model's, one table for each family.

A rule is `(pattern of the checkpoint's key, our key or None)`; None drops the key on purpose. Patterns
match whole keys; a key that no rule matches is an error that lists it.
"""

import re

from condinst_deploy.contract import Family
from condinst_deploy.model.bifpn import NODES

KeyTable = tuple[tuple[str, str | None], ...]

MMDET: KeyTable = (
    (r"backbone\.(.+)", r"backbone.\1"),
    (r"neck\.lateral_convs\.(\d+)\.conv\.(\w+)", r"fpn.lateral.\1.\2"),
    (r"neck\.fpn_convs\.([012])\.conv\.(\w+)", r"fpn.output.\1.\2"),
    (r"neck\.fpn_convs\.3\.conv\.(\w+)", r"fpn.p6.\1"),
    (r"neck\.fpn_convs\.4\.conv\.(\w+)", r"fpn.p7.\1"),
    (r"bbox_head\.cls_convs\.(\d+)\.conv\.(\w+)", r"head.cls_tower.\1.conv.\2"),
    (r"bbox_head\.cls_convs\.(\d+)\.gn\.(\w+)", r"head.cls_tower.\1.norm.\2"),
    (r"bbox_head\.reg_convs\.(\d+)\.conv\.(\w+)", r"head.box_tower.\1.conv.\2"),
    (r"bbox_head\.reg_convs\.(\d+)\.gn\.(\w+)", r"head.box_tower.\1.norm.\2"),
    (r"bbox_head\.conv_cls\.(\w+)", r"head.cls_logits.\1"),
    (r"bbox_head\.conv_reg\.(\w+)", r"head.box_pred.\1"),
    (r"bbox_head\.conv_centerness\.(\w+)", r"head.centerness.\1"),
    (r"bbox_head\.controller\.(\w+)", r"head.controller.\1"),
    (r"bbox_head\.scales\.(\d+)\.scale", r"head.scales.\1"),
    (r"mask_head\.mask_feature_head\.convs_all_levels\.(\d+)\.conv\d+\.conv\.(\w+)", r"mask_branch.refine.\1.conv.\2"),
    (r"mask_head\.mask_feature_head\.convs_all_levels\.(\d+)\.conv\d+\.bn\.(\w+)", r"mask_branch.refine.\1.norm.\2"),
    (r"mask_head\.mask_feature_head\.conv_branch\.(\d+)\.conv\.(\w+)", r"mask_branch.tower.\1.conv.\2"),
    (r"mask_head\.mask_feature_head\.conv_branch\.(\d+)\.bn\.(\w+)", r"mask_branch.tower.\1.norm.\2"),
    (r"mask_head\.mask_feature_head\.conv_pred\.(\w+)", r"mask_branch.features.\1"),
    (r"data_preprocessor\..+", None),  # mean and std, read into the configuration
    (r"mask_head\._iter", None),  # BoxInst's count of training steps
)

_STAGES = range(1, 5)  # torchvision's layer1..4 are detectron2's res2..5
_TOWER = range(16)  # AdelaiDet counts convolution, norm and ReLU; more layers than any published tower has

ADELAIDET_BACKBONE: KeyTable = (
    (r"stem\.conv1\.weight", r"conv1.weight"),
    (r"stem\.conv1\.norm\.(\w+)", r"bn1.\1"),
    *((rf"res{i + 1}\.(\d+)\.conv(\d)\.weight", rf"layer{i}.\1.conv\2.weight") for i in _STAGES),
    *((rf"res{i + 1}\.(\d+)\.conv(\d)\.norm\.(\w+)", rf"layer{i}.\1.bn\2.\3") for i in _STAGES),
    *((rf"res{i + 1}\.(\d+)\.shortcut\.weight", rf"layer{i}.\1.downsample.0.weight") for i in _STAGES),
    *((rf"res{i + 1}\.(\d+)\.shortcut\.norm\.(\w+)", rf"layer{i}.\1.downsample.1.\2") for i in _STAGES),
)
"""detectron2's ResNet, whose name for itself AdelaiDet puts in front."""

_BIFPN_NODES = tuple("_".join(str(number) for number in (level, *inputs)) for level, inputs in NODES)
"""AdelaiDet names a node of a repeat after its level and its inputs: 1_1_7_8."""


def _fusion_rules(i: int, name: str) -> KeyTable:
    repeat = r"backbone\.repeated_bifpn\.(\d+)\."
    return (
        (rf"{repeat}weights_f{name}", rf"fpn.repeats.\1.{i}.weights"),
        (rf"{repeat}outputs_f{name}\.weight", rf"fpn.repeats.\1.{i}.conv.weight"),
        (rf"{repeat}outputs_f{name}\.norm\.(\w+)", rf"fpn.repeats.\1.{i}.norm.\2"),
    )


_HEAD = r"proposal_generator\.fcos_head\."

ADELAIDET: KeyTable = (
    *((rf"backbone\.bottom_up\.(?:backbone\.)?{theirs}", rf"backbone.{ours}") for theirs, ours in ADELAIDET_BACKBONE),
    *((rf"backbone\.fpn_lateral{i + 3}\.(\w+)", rf"fpn.lateral.{i}.\1") for i in range(3)),
    *((rf"backbone\.fpn_output{i + 3}\.(\w+)", rf"fpn.output.{i}.\1") for i in range(3)),
    (r"backbone\.top_block\.(p[67])\.(\w+)", r"fpn.\1.\2"),
    (r"backbone\.bottom_up\.res6\.reduction\.(weight)", r"fpn.reduction.0.\1"),
    (r"backbone\.bottom_up\.res6\.reduction\.norm\.(\w+)", r"fpn.reduction.1.\1"),
    (r"backbone\.repeated_bifpn\.0\.lateral_(\d)_f\1\.(weight|bias)", r"fpn.lateral.\1.0.\2"),
    (r"backbone\.repeated_bifpn\.0\.lateral_(\d)_f\1\.norm\.(\w+)", r"fpn.lateral.\1.1.\2"),
    *(rule for i, node in enumerate(_BIFPN_NODES) for rule in _fusion_rules(i, node)),
    *((rf"{_HEAD}cls_tower\.{3 * i}\.(\w+)", rf"head.cls_tower.{i}.conv.\1") for i in _TOWER),
    *((rf"{_HEAD}cls_tower\.{3 * i + 1}\.(\w+)", rf"head.cls_tower.{i}.norm.\1") for i in _TOWER),
    *((rf"{_HEAD}bbox_tower\.{3 * i}\.(\w+)", rf"head.box_tower.{i}.conv.\1") for i in _TOWER),
    *((rf"{_HEAD}bbox_tower\.{3 * i + 1}\.(\w+)", rf"head.box_tower.{i}.norm.\1") for i in _TOWER),
    (rf"{_HEAD}cls_logits\.(\w+)", r"head.cls_logits.\1"),
    (rf"{_HEAD}bbox_pred\.(\w+)", r"head.box_pred.\1"),
    (rf"{_HEAD}ctrness\.(\w+)", r"head.centerness.\1"),
    (rf"{_HEAD}scales\.(\d+)\.scale", r"head.scales.\1"),
    (r"controller\.(\w+)", r"head.controller.\1"),
    (r"mask_branch\.(refine|tower)\.(\d+)\.0\.(\w+)", r"mask_branch.\1.\2.conv.\3"),
    (r"mask_branch\.(refine|tower)\.(\d+)\.1\.(\w+)", r"mask_branch.\1.\2.norm.\3"),
    (r"mask_branch\.tower\.\d+\.(weight|bias)", r"mask_branch.features.\1"),
    (r"mask_branch\.seg_head\.([01])\.0\.(\w+)", r"mask_branch.semantic.\1.conv.\2"),
    (r"mask_branch\.seg_head\.([01])\.1\.(\w+)", r"mask_branch.semantic.\1.norm.\2"),
    (r"mask_branch\.logits\.(\w+)", r"mask_branch.semantic.2.\1"),
    (r"mask_head\.(sizes_of_interest|_iter)", None),  # constants, and a count of training steps
)

KEY_TABLES: dict[Family, KeyTable] = {"mmdet": MMDET, "adelaidet": ADELAIDET}


def renamed(keys: list[str], table: KeyTable) -> tuple[dict[str, str], list[str]]:
    """Our key of every key that the table maps, and the keys that no rule matches."""
    mapped: dict[str, str] = {}
    unmapped: list[str] = []
    for key in keys:
        for pattern, target in table:
            match = re.fullmatch(pattern, key)
            if match:
                if target is not None:
                    mapped[key] = match.expand(target)
                break
        else:
            unmapped.append(key)
    return mapped, unmapped
