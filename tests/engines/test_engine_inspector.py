"""The inspector's JSON, in the forms that NVIDIA documents; the library itself needs a GPU."""

import json

import pytest

from condinst_deploy.errors import ArtifactError
from condinst_engines.engine_inspector import found_in_engine, layers_from_json

DETAILED = {
    "Layers": [
        {
            "Name": "backbone.conv1/Conv + backbone.relu/Relu",
            "LayerType": "CaskConvolution",
            "Outputs": [{"Name": "relu", "Dimensions": [1, 64, 400, 672], "Format/Datatype": "Half"}],
        },
        {
            "Name": "head.cls_logits/Conv",
            "LayerType": "CaskConvolution",
            "Outputs": [{"Name": "x", "Format/Datatype": "Channel major FP16 format where channel % 8 == 0"}],
        },
        {
            "Name": "a",
            "LayerType": "Myelin",
            "Outputs": [{"Name": "y", "Format/Datatype": "Row major linear BF16 format"}],
        },
        {"Name": "b", "LayerType": "Reformat", "Outputs": [{"Name": "z", "Format/Datatype": "Row major linear FP32"}]},
        {"Name": "c", "LayerType": "TopK", "Outputs": [{"Name": "i", "Format/Datatype": "Int32"}]},
        {
            "Name": "e",
            "LayerType": "kgen",
            "Inputs": [{"Name": "f", "Format/Datatype": "Half"}],
            "Outputs": [{"Name": "g", "Format/Datatype": "Float"}],
        },
        {"Name": "d", "LayerType": "NoOp", "Outputs": []},
    ],
    "Bindings": ["images"],
}


def test_layers_are_counted_by_the_type_of_what_they_give() -> None:
    found = found_in_engine(layers_from_json(json.dumps(DETAILED)))
    assert found.source == "engine inspector"
    assert found.layers == {"float16": 3, "bfloat16": 1, "float32": 1}


def test_a_plan_without_details_has_names_only() -> None:
    layers = layers_from_json('{"Layers": ["first", "second"], "Bindings": []}')
    assert [layer["Name"] for layer in layers] == ["first", "second"]
    assert found_in_engine(layers).layers == {}


@pytest.mark.parametrize("text", ["", "[]", "{}", "no json"])
def test_another_answer_is_an_error(text: str) -> None:
    with pytest.raises(ArtifactError, match="inspector"):
        layers_from_json(text)
