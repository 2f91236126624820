"""The precision policy: the level of every node, and why.

It stands here and nowhere else. Rules match node names (`backbone.layer1.0.conv2/Conv`, `SelectInstances/iou`), the
first that matches decides. A recipe's patterns come before all of them.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Literal, get_args

from condinst_deploy.contract.onnx_names import PREDICTORS
from condinst_deploy.contract.precision import Precision
from condinst_deploy.errors import ConfigError, EngineError, SettingError
from condinst_deploy.shown_text import counted
from condinst_deploy.support.json_text import json_text

Quantized = Literal["int8", "fp8"]
"""Kinds of engines with convolutions in 8 bits."""

QUANTIZED: tuple[Quantized, ...] = get_args(Quantized)

Level = Literal["fp32", "bf16", "fp16", "half", "int8", "fp8"]
"""Precision that a rule gives a node. `half` is the half type that the engine is built for. `int8` and `fp8` are for
convolutions: they read 8 bits, and what they give is half."""

LEVEL_TYPES: dict[Level, Precision] = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}

LARGEST_SHIFT = 24
"""Most powers of two that a convolution's output can be scaled down by."""


@dataclass(frozen=True)
class Rule:
    """Nodes whose names match, their level, and the reason."""

    pattern: str  # of a shell: * stands for anything, dots and slashes, too
    level: Level
    why: str

    def type_for(self, precision: Precision) -> Precision:
        """The type of the nodes in an engine of a precision."""
        return LEVEL_TYPES.get(self.level, precision)


POLICY = (
    Rule("backbone*", "half", "convolutions: a third of the work"),
    Rule("fpn*", "half", "convolutions"),
    Rule("head*", "half", "towers and predictions: half of the work"),
    Rule("mask_branch*", "half", "convolutions and their resampling"),
    Rule("params/*", "half", "the controller, where it is needed"),
    Rule("DynamicMaskHead/xy_*", "fp32", "coordinates: float16 is 1 px apart above 1024, bfloat16 4 px above 512"),
    Rule("DynamicMaskHead/*", "half", "three small layers, and the widest maps of the network"),
    Rule("normalize/*", "fp32", "the mean of a channel, 123.675, has no close neighbour in bfloat16"),
    Rule("neighbourhoods/*", "fp32", "cells of the maps, from coordinates"),
    Rule("candidates/*", "fp32", "boxes are clamped to the image and tested for area: coordinates"),
    Rule("candidates.*", "fp32", "locations, decoding, scores and top-k: close scores would tie and change order"),
    Rule("SelectInstances/*", "fp32", "areas overflow float16 above 256x256 px; an IoU near the threshold would flip"),
    Rule("instances/*", "fp32", "gathers boxes and scores, which the contract wants in float32"),
    Rule("*", "fp32", "whatever no rule names"),
)

QUANTIZED_CONVOLUTIONS = (
    Rule("backbone.conv1/*", "half", "the stem: three channels of pixels, nothing behind it forgives its errors"),
    Rule("backbone.layer1.*", "half", "sensitive, a twentieth of the work"),
    Rule("mask_branch*", "half", "mask convolutions: 8 bits there cost mask IoU, not boxes"),
    Rule("backbone*", "int8", "convolutions: most of the weights"),
    Rule("fpn*", "int8", "convolutions"),
    Rule("head.*_tower.*", "int8", "towers: half of the work"),
    Rule("*", "half", "whatever no rule names"),
)
"""Which convolutions an INT8 or FP8 engine has in 8 bits; a recipe's lines come before. `int8` means both kinds."""

WORDS_SHOWN = 5


@dataclass(frozen=True)
class Policy:
    """The rules, after those that a recipe puts before them; its fields are asked in their order."""

    fp32: tuple[str, ...] = ()  # patterns of nodes in float32
    float32: tuple[str, ...] = ()  # the same: the name that recipes used before there were levels
    bf16: tuple[str, ...] = ()  # in bfloat16, for every precision of the engine
    fp16: tuple[str, ...] = ()  # in float16, for every precision of the engine
    half: tuple[str, ...] = ()  # in the engine's half type
    int8: tuple[str, ...] = ()  # convolutions that an INT8 engine has in 8 bits, besides the toolkit's own
    fp8: tuple[str, ...] = ()  # and an FP8 engine
    scale: tuple[str, ...] = ()  # PATTERN:K: these convolutions give 2^-K of their output to the norm behind them

    def __post_init__(self) -> None:
        """Check the patterns.

        Raises:
            ConfigError: one is not text, or a scale has no power of two.
        """
        for name in (own.name for own in fields(self)):
            if not all(isinstance(pattern, str) and pattern for pattern in getattr(self, name)):
                raise SettingError(f"policy.{name}", f"is {getattr(self, name)!r}; expected patterns of node names")
        for text in self.scale:
            if not (found := re.fullmatch(r".+:(\d{1,2})", text)) or not 1 <= int(found[1]) <= LARGEST_SHIFT:
                raise SettingError(
                    "policy.scale",
                    f"has {text!r}; expected PATTERN:K with K from 1 to {LARGEST_SHIFT},"
                    ' for example "head.cls_tower.0.conv/*:4"',
                )

    @property
    def shifts(self) -> list[tuple[str, int]]:
        """The scales as patterns and powers of two."""
        return [(pattern, int(power)) for pattern, power in (text.rsplit(":", 1) for text in self.scale)]

    @cached_property
    def own_rules(self) -> tuple[Rule, ...]:
        """The recipe's rules, in the order in which they are asked."""
        levels: dict[str, Level] = {
            "fp32": "fp32",
            "float32": "fp32",
            "bf16": "bf16",
            "fp16": "fp16",
            "half": "half",
            "int8": "int8",
            "fp8": "fp8",
        }
        return tuple(
            Rule(pattern, level, "named by the recipe")
            for name, level in levels.items()
            for pattern in getattr(self, name)
        )

    @property
    def rules(self) -> tuple[Rule, ...]:
        """All rules, in the order in which they are asked."""
        return (*self.own_rules, *POLICY)

    def rule_for(self, node: str) -> Rule:
        """The rule that decides about a node."""
        return next(rule for rule in self.rules if fnmatchcase(node, rule.pattern))

    def quantizes(self, convolution: str, precision: Precision, kind: Quantized) -> bool:
        """Return whether an engine of a kind has a convolution in 8 bits.

        A node that is in another type than the engine's half type is not quantised.
        """
        if self.rule_for(convolution).type_for(precision) != precision:
            return False
        if any(fnmatchcase(convolution, pattern) for pattern in PREDICTORS):
            return False
        own = next((rule for rule in self.own_rules if fnmatchcase(convolution, rule.pattern)), None)
        if own is not None:
            return own.level == kind
        return next(rule for rule in QUANTIZED_CONVOLUTIONS if fnmatchcase(convolution, rule.pattern)).level == "int8"

    def with_level(self, level: Literal["fp32", "bf16"], nodes: Iterable[str]) -> "Policy":
        """This policy with more nodes of a level; they leave the other generated level."""
        moved = dict.fromkeys(nodes)
        other = "bf16" if level == "fp32" else "fp32"
        kept = tuple(pattern for pattern in getattr(self, other) if pattern not in moved)
        own = dict.fromkeys((*getattr(self, level), *moved))
        return replace(self, **{level: tuple(own), other: kept})

    def own_types(self, precision: Precision) -> frozenset[Precision]:
        """Types that the recipe's lines add to an engine of a precision."""
        return frozenset(rule.type_for(precision) for rule in self.own_rules)

    def to_toml(self, precision: Precision) -> str:
        """A recipe that gives this policy back: a user can read and edit it."""
        lines = [f'precision = "{precision}"', "", "[policy]"]
        for name in (own.name for own in fields(self)):
            patterns = getattr(self, name)
            if patterns:
                lines += [f"{name} = [", *(f"    {json_text(pattern, 'a pattern')}," for pattern in patterns), "]"]
        return "\n".join(lines) + "\n"

    def check_known(self, nodes: Iterable[str]) -> None:
        """Refuse a graph of other names: its nodes would silently stay in float32.

        Raises:
            EngineError: a node has no name, or one that no rule but the last knows.
        """
        odd = [name for name in nodes if not name or self.rule_for(name) is POLICY[-1]]
        if odd:
            shown = ", ".join(repr(name) for name in list(dict.fromkeys(odd))[:WORDS_SHOWN])
            raise EngineError(
                f"the names of {counted(len(odd), 'node')} ({shown}) are unknown to the precision policy; export the"
                " model again with condinst-export, or name them under [policy] in a recipe"
            )

    def check(self, nodes: Iterable[str]) -> None:
        """Refuse patterns of the recipe that mean nothing.

        Raises:
            ConfigError: a pattern matches no node.
        """
        names = list(nodes)
        for pattern in (*(rule.pattern for rule in self.own_rules), *(pattern for pattern, _ in self.shifts)):
            if not any(fnmatchcase(name, pattern) for name in names):
                raise ConfigError(
                    f"the precision pattern {pattern!r} matches no node of the graph; names look like {names[0]!r}"
                    " and condinst-inspect --json lists them"
                )
