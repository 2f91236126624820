"""How the published checkpoints name what this model holds: one readable table a family.

A rule is `(pattern of the checkpoint's key, our key or None)`; None drops the key on purpose. Patterns
match whole keys; a key that no rule matches is an error that lists it.
"""

import re

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
)


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
