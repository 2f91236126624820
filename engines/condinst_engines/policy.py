"""The precision policy: which nodes run in half precision, which stay in float32, and why.

It stands here and nowhere else. Rules match node names (`backbone.layer1.0.conv2/Conv`, `SelectInstances/iou`), the
first that matches decides, and a recipe's patterns come before all of them.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal, get_args

from condinst_deploy.errors import ConfigError, EngineError

Precision = Literal["float32", "float16", "bfloat16"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)


@dataclass(frozen=True)
class Rule:
    """Nodes whose names match, their precision, and the reason."""

    pattern: str  # of a shell: * stands for anything, dots and slashes, too
    half: bool  # float16 or bfloat16, whichever the engine is built for; otherwise float32
    why: str


POLICY = (
    Rule("backbone*", True, "convolutions: a third of the work"),
    Rule("fpn*", True, "convolutions"),
    Rule("head*", True, "towers and predictions: half of the work"),
    Rule("mask_branch*", True, "convolutions and their resampling"),
    Rule("params/*", True, "the controller, where it is needed"),
    Rule("DynamicMaskHead/xy_*", False, "coordinates: float16 is 1 px apart above 1024, bfloat16 4 px above 512"),
    Rule("DynamicMaskHead/*", True, "three small layers, and the widest maps of the network"),
    Rule("normalize/*", False, "the mean of a channel, 123.675, has no close neighbour in bfloat16"),
    Rule("neighbourhoods/*", False, "cells of the maps, from coordinates"),
    Rule("candidates/*", False, "boxes are clamped to the image and tested for area: coordinates"),
    Rule("candidates.*", False, "locations, decoding, scores and top-k: close scores would tie and change order"),
    Rule("SelectInstances/*", False, "areas overflow float16 above 256x256 px; an IoU near the threshold would flip"),
    Rule("instances/*", False, "gathers boxes and scores, which the contract wants in float32"),
    Rule("*", False, "whatever no rule names"),
)

WORDS_SHOWN = 5


@dataclass(frozen=True)
class Policy:
    """The rules, after those that a recipe puts before them."""

    float32: tuple[str, ...] = ()  # patterns of nodes to keep in float32
    half: tuple[str, ...] = ()  # patterns of nodes to convert all the same

    def __post_init__(self) -> None:
        """Check the patterns.

        Raises:
            ConfigError: one is not text.
        """
        for name in ("float32", "half"):
            if not all(isinstance(pattern, str) and pattern for pattern in getattr(self, name)):
                raise ConfigError(f"policy.{name} is {getattr(self, name)!r}; expected patterns of node names")

    @property
    def rules(self) -> tuple[Rule, ...]:
        """All rules, in the order in which they are asked."""
        own = [Rule(pattern, False, "kept by the recipe") for pattern in self.float32]
        own += [Rule(pattern, True, "converted by the recipe") for pattern in self.half]
        return (*own, *POLICY)

    def rule_for(self, node: str) -> Rule:
        """The rule that decides about a node."""
        return next(rule for rule in self.rules if fnmatchcase(node, rule.pattern))

    def check_known(self, nodes: Iterable[str]) -> None:
        """Refuse a graph of other names: its nodes would silently stay in float32.

        Raises:
            EngineError: a node has no name, or one that no rule but the last knows.
        """
        odd = [name for name in nodes if not name or self.rule_for(name) is POLICY[-1]]
        if odd:
            shown = ", ".join(repr(name) for name in list(dict.fromkeys(odd))[:WORDS_SHOWN])
            raise EngineError(
                f"the names of {len(odd)} nodes ({shown}) are unknown to the precision policy; export the model again"
                " with condinst-export, or name them under [policy] in a recipe"
            )

    def check(self, nodes: Iterable[str]) -> None:
        """Refuse patterns of the recipe that mean nothing.

        Raises:
            ConfigError: a pattern matches no node.
        """
        names = list(nodes)
        for pattern in (*self.float32, *self.half):
            if not any(fnmatchcase(name, pattern) for name in names):
                raise ConfigError(
                    f"the precision pattern {pattern!r} matches no node of the graph; names look like {names[0]!r}"
                    " and condinst-inspect --json lists them"
                )
