"""The precision policy covers the exported graph, by names."""

import onnx
import pytest

from condinst_deploy.errors import ConfigError, EngineError
from condinst_engines.policy import POLICY, Policy
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
        assert not policy.rule_for(name).half
    for name in ("backbone.conv1/Conv", "head.cls_logits/Conv_2", "DynamicMaskHead/product2", "params/Concat"):
        assert policy.rule_for(name).half


def test_the_patterns_of_a_recipe_come_first() -> None:
    policy = Policy(float32=("head.box_pred/*",), half=("normalize/*",))
    assert not policy.rule_for("head.box_pred/Conv").half
    assert policy.rule_for("head.cls_logits/Conv").half
    assert policy.rule_for("normalize/Sub").half


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
