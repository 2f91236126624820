"""The precision policy covers the exported graph, by names."""

from pathlib import Path

import onnx
import pytest

from condinst_deploy.errors import ConfigError, EngineError
from condinst_engines.build_recipe import load_recipe
from condinst_engines.precision_policy import POLICY, Level, Policy, Rule
from tests.support.models import SLIM_KINDS, SlimFiles


def names(proto: onnx.ModelProto) -> list[str]:
    found = [node.name for node in proto.graph.node]
    for function in proto.functions:
        for node in function.node:
            found.append(node.name)
            found += [inner.name for attribute in node.attribute for inner in attribute.g.node]
    return found


@pytest.mark.parametrize("kind", SLIM_KINDS)
def test_every_node_of_the_exported_graph_has_a_rule_of_its_own(kind: str, slim_files: SlimFiles) -> None:
    found = names(onnx.load(str(slim_files(kind)[1])))
    assert found
    unnamed = [name for name in found if Policy().rule_for(name).pattern == "*"]
    assert unnamed == []


def test_every_rule_decides_about_some_node(slim_proto: onnx.ModelProto) -> None:
    used = {Policy().rule_for(name).pattern for name in names(slim_proto)}
    assert used == {rule.pattern for rule in POLICY} - {"*"}


def test_node_names_are_unique_and_say_where_a_node_stands(slim_proto: onnx.ModelProto) -> None:
    found = names(slim_proto)
    assert len(found) == len(set(found))
    for name in (
        "backbone.conv1/Conv",
        "backbone.layer1.0.conv2/Conv",
        "head.cls_tower.0.norm/InstanceNormalization",
        "head.box_pred/Conv_5",
        "mask_branch.features/Conv",
        "candidates.levels.p7/TopK",
        "instances/SelectInstances",
        "SelectInstances/iou",
        "DynamicMaskHead/xy_term_x",
    ):
        assert name in found


def test_what_must_be_exact_is_float32_and_the_convolutions_are_half() -> None:
    policy = Policy()
    for name in ("candidates.levels.p3/TopK", "SelectInstances/iou", "DynamicMaskHead/xy_term_x", "normalize/Sub"):
        assert policy.rule_for(name).level == "fp32"
    for name in ("backbone.conv1/Conv", "head.cls_logits/Conv_2", "DynamicMaskHead/product2", "params/Concat"):
        assert policy.rule_for(name).level == "half"


def test_the_patterns_of_a_recipe_come_first() -> None:
    policy = Policy(
        fp32=("head.box_pred/Conv",),
        float32=("head.box_pred/*",),
        bf16=("head.*",),
        fp16=("fpn*",),
        half=("normalize/*",),
    )
    levels = {
        "head.box_pred/Conv": "fp32",
        "head.box_pred/Conv_2": "fp32",
        "head.cls_logits/Conv": "bf16",
        "fpn.p7/Conv": "fp16",
        "normalize/Sub": "half",
        "params/Concat": "half",
    }
    assert {name: policy.rule_for(name).level for name in levels} == levels


@pytest.mark.parametrize(
    ("level", "types"),
    [
        ("fp32", ("float32", "float32")),
        ("bf16", ("bfloat16", "bfloat16")),
        ("fp16", ("float16", "float16")),
        ("half", ("float16", "bfloat16")),
    ],
)
def test_a_level_gives_a_type_by_the_engines_precision(level: Level, types: tuple[str, str]) -> None:
    rule = Rule("*", level, "for a test")
    assert (rule.type_for("float16"), rule.type_for("bfloat16")) == types


def test_a_node_has_one_of_the_generated_levels() -> None:
    policy = Policy(fp32=("a",)).with_level("bf16", ["b", "c"]).with_level("fp32", ["c"])
    assert (policy.fp32, policy.bf16) == (("a", "c"), ("b",))


def test_a_policy_comes_back_from_its_toml(tmp_path: Path) -> None:
    policy = Policy(fp32=('a"b/*',), bf16=("fpn.p7/Conv",), scale=("head.cls_tower.0.conv/*:3",))
    path = tmp_path / "kept.toml"
    path.write_text(policy.to_toml("float16"))
    recipe = load_recipe(str(path))
    assert (recipe.precision, recipe.policy) == ("float16", policy)


@pytest.mark.parametrize("text", ["head*", "head*:", "head*:0", "head*:25", ":3", "head*:-1", "head*:1.5"])
def test_a_scale_is_a_pattern_and_a_power_of_two(text: str) -> None:
    with pytest.raises(ConfigError, match=r"policy\.scale has .* expected PATTERN:K with K from 1 to 24"):
        Policy(scale=(text,))


def test_a_pattern_that_matches_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"'head\.nothing\*' matches no node"):
        Policy(float32=("head.nothing*",)).check(["head.box_pred/Conv"])


def test_nodes_that_no_rule_knows_are_named() -> None:
    Policy().check_known(["backbone.conv1/Conv", "SelectInstances/iou"])
    Policy(float32=("new_part/*",)).check_known(["new_part/Conv"])
    with pytest.raises(EngineError, match=r"names of 3 nodes \('', 'new_part/Conv'\) are unknown"):
        Policy().check_known(["", "", "new_part/Conv", "backbone.conv1/Conv"])


def test_patterns_must_be_text() -> None:
    with pytest.raises(ConfigError, match=r"policy\.half"):
        Policy(half=(3,))  # type: ignore[arg-type]
