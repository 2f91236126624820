"""The frozen description of a CondInst network."""

import math
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from condinst_deploy.contract import Family, Preprocessing, Selection
from condinst_deploy.errors import ConfigError, SettingError
from condinst_deploy.shown_text import shown_value
from condinst_deploy.support.validation import Limits, check_choice, check_number, typed

STRIDES = (8, 16, 32, 64, 128)
"""Strides of P3..P7, in network pixels."""

MASK_STRIDE = 8
"""Stride of the mask features and of the mask logits, in network pixels."""

SOI_STRIDES = 8
"""Size of interest of a level, in its strides."""

SIZES_OF_INTEREST = tuple(SOI_STRIDES * stride for stride in STRIDES)
"""Scale that divides the relative coordinates of an instance found on P3..P7 (64 .. 1024)."""

BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
"""Residual blocks of layer1..4 by ResNet depth; basic blocks up to 34, bottlenecks from 50."""

NORM_GROUPS = 32
"""Groups of the towers' GroupNorm."""

BOXINST_WIDTHS: dict[Family, tuple[int, int]] = {"mmdet": (16, 16), "adelaidet": (16, 8)}
"""Mask channels and hidden channels of the mask head of the published BoxInst models (arXiv 2012.02310).

CondInst's are (8, 8); otherwise BoxInst's network is CondInst's.
"""

LIMITS = {
    "num_classes": 100_000,
    "base_width": 1_024,
    "tower_convs": 64,
    "mask_branch_channels": 4_096,
    "mask_branch_convs": 64,
    "mask_channels": 256,
    "dynamic_channels": 256,
    "bifpn_repeats": 64,
}
"""Largest value of each size, far above those of published models: a file's settings size nothing beyond them."""

FPN_CHANNELS = Limits(2 * NORM_GROUPS, 4_096, whole=True)

Neck = Literal["fpn", "bifpn"]
"""Necks that make P3..P7 from the backbone's features."""


@dataclass(frozen=True)
class CondInstConfig:
    """Architecture and inference rules of one CondInst model.

    The defaults are mmdetection's `condinst_r50_fpn_ms-poly-90k_coco_instance`; the zoo of AdelaiDet is
    another set of values (`model/published_checkpoints.py` reads them off a checkpoint).
    """

    num_classes: int = 80
    depth: int = 50
    base_width: int = 64  # channels of the stem; ResNet's own is 64
    stride_in_1x1: bool = False  # a bottleneck's stride sits on its first convolution (MSRA), not on the 3x3
    neck: Neck = "fpn"
    fpn_channels: int = 256  # of P3..P7, with every neck
    bifpn_repeats: int = 6  # for the neck "bifpn"
    tower_convs: int = 4
    mask_branch_channels: int = 128
    mask_branch_convs: int = 4
    mask_channels: int = 8  # channels of the mask features; BoxInst has 16
    dynamic_channels: int = 8  # hidden channels of the dynamic mask head; mmdetection's BoxInst has 16
    semantic_head: bool = False  # a classifier of P3's pixels, which only training uses
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    selection: Selection = field(default_factory=Selection)

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ConfigError: a field has a value that no network can be built from.
        """
        if type(self.depth) is not int or self.depth not in BLOCKS:
            raise ConfigError(f"ResNet depth is {shown_value(self.depth)}; expected one of {sorted(BLOCKS)}")
        for name, most in LIMITS.items():
            check_number(name, getattr(self, name), Limits(1, most, whole=True))
        for name in ("stride_in_1x1", "semantic_head"):
            if type(getattr(self, name)) is not bool:
                raise SettingError(name, f"is {shown_value(getattr(self, name))}; expected true or false")
        check_choice("neck", self.neck, Neck)
        if self.preprocessing.family != self.selection.family:
            raise SettingError(
                "preprocessing",
                f"is of the family {self.preprocessing.family} and selection of {self.selection.family}; expected the"
                " same",
            )
        # with one channel a group, a level of one cell would have nothing to normalise over
        if not FPN_CHANNELS.hold(self.fpn_channels) or self.fpn_channels % NORM_GROUPS:
            raise SettingError(
                "fpn_channels",
                f"is {shown_value(self.fpn_channels)}; the towers' GroupNorm needs a multiple of {NORM_GROUPS},"
                f" {FPN_CHANNELS.least} to {FPN_CHANNELS.most}",
            )

    @property
    def family(self) -> Family:
        """Reference implementation whose rules the model follows."""
        return self.selection.family

    @property
    def title(self) -> str:
        """Short name of the architecture, for messages."""
        parts = [f"ResNet-{self.depth}", "BiFPN" if self.neck == "bifpn" else ""]
        parts.append("with a semantic head" if self.semantic_head else "")
        widths = self.mask_channels, self.dynamic_channels
        if widths in BOXINST_WIDTHS.values():
            parts.append(f"with BoxInst's mask head ({widths[0]} mask channels, {widths[1]} hidden ones)")
        return " ".join(part for part in parts if part)

    @property
    def backbone_channels(self) -> tuple[int, int, int]:
        """Channels of C3, C4 and C5."""
        expansion = 4 if self.depth >= 50 else 1
        c3, c4, c5 = (self.base_width * expansion * 2**i for i in (1, 2, 3))
        return c3, c4, c5

    @property
    def num_params(self) -> int:
        """Parameters that the controller predicts per instance: 169 for CondInst, 233 and 593 for BoxInst."""
        hidden, inputs = self.dynamic_channels, self.mask_channels + 2
        return hidden * inputs + hidden * hidden + hidden + hidden + hidden + 1

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionaries, lists and numbers, for a checkpoint."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "CondInstConfig":
        """Rebuild what `to_dict` wrote.

        Raises:
            ConfigError: a field is unknown or has a value that cannot be used.
        """
        return typed(values, cls)


def hidden_width(mask_channels: int, num_params: int) -> int | None:
    """Hidden channels h of a dynamic mask head with `num_params = h (C + 2) + h h + 3 h + 1` parameters.

    Args:
        mask_channels: channels C of the mask features.
        num_params: parameters of one instance.

    Returns:
        The width; None if no whole number gives so many parameters.
    """
    linear = mask_channels + 5
    width = (math.isqrt(linear**2 + 4 * max(num_params - 1, 0)) - linear) // 2
    return width if width >= 1 and width * width + linear * width + 1 == num_params else None
