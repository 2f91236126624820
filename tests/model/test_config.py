from dataclasses import FrozenInstanceError, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from condinst_deploy.contract import Preprocessing, Selection
from condinst_deploy.errors import ConfigError
from condinst_deploy.model.condinst import CondInst
from condinst_deploy.model.config import STRIDES, CondInstConfig, hidden_width
from tests.support.models import SLIM, SLIM_ADELAIDET, SLIM_BIFPN, mmdet_shapes, seeded_model

CUSTOM = CondInstConfig(
    num_classes=1,
    depth=101,
    base_width=8,
    stride_in_1x1=True,
    neck="bifpn",
    fpn_channels=96,
    bifpn_repeats=2,
    tower_convs=2,
    mask_branch_channels=16,
    mask_branch_convs=3,
    mask_channels=4,
    dynamic_channels=6,
    semantic_head=True,
    preprocessing=Preprocessing(
        mean=(0.5, 1.0, 2.0), std=(1.0, 2.0, 3.0), short_side=64, long_side=96, pad_divisor=64, family="adelaidet"
    ),
    selection=Selection(
        score_threshold=0.25, candidates_per_level=7, nms_iou=0.5, max_detections=3, family="adelaidet"
    ),
)
POSITIVE = (
    "num_classes",
    "base_width",
    "tower_convs",
    "mask_branch_channels",
    "mask_branch_convs",
    "mask_channels",
    "dynamic_channels",
    "bifpn_repeats",
)


def test_the_defaults_are_mmdetections_r50() -> None:
    with torch.device("meta"):
        model = CondInst()
    assert sorted(tuple(v.shape) for v in model.state_dict().values()) == sorted(mmdet_shapes().values())
    assert (model.config.preprocessing.short_side, model.config.preprocessing.long_side) == (800, 1333)
    assert model.config.selection == Selection(0.05, 1000, 0.6, 100)


@pytest.mark.parametrize(
    ("mask_channels", "dynamic_channels", "expected"),
    # weights of three layers, then their biases
    [(8, 8, 10 * 8 + 8 * 8 + 8 + 8 + 8 + 1), (1, 1, 3 + 1 + 1 + 1 + 1 + 1), (4, 6, 6 * 6 + 6 * 6 + 6 + 6 + 6 + 1)],
)
def test_the_number_of_predicted_parameters(mask_channels: int, dynamic_channels: int, expected: int) -> None:
    config = CondInstConfig(mask_channels=mask_channels, dynamic_channels=dynamic_channels)
    assert config.num_params == expected


@pytest.mark.parametrize(("widths", "expected"), [((8, 8), 169), ((16, 8), 233), ((16, 16), 593)])
def test_the_published_models_parameters_tell_their_widths(widths: tuple[int, int], expected: int) -> None:
    assert CondInstConfig(mask_channels=widths[0], dynamic_channels=widths[1]).num_params == expected
    assert hidden_width(widths[0], expected) == widths[1]


def test_the_hidden_width_is_found_for_every_size_and_for_no_other_count() -> None:
    for channels in (1, 8, 16, 37):
        sizes = {CondInstConfig(mask_channels=channels, dynamic_channels=h).num_params: h for h in range(1, 40)}
        found = {size: hidden_width(channels, size) for size in range(-2, max(sizes) + 1)}
        assert {size: width for size, width in found.items() if width is not None} == sizes


@pytest.mark.parametrize(
    ("depth", "base_width", "channels"),
    [(18, 64, (128, 256, 512)), (34, 8, (16, 32, 64)), (50, 64, (512, 1024, 2048)), (101, 16, (128, 256, 512))],
)
def test_the_backbones_channels(depth: int, base_width: int, channels: tuple[int, int, int]) -> None:
    config = CondInstConfig(depth=depth, base_width=base_width)
    assert config.backbone_channels == channels
    with torch.device("meta"):
        lateral = CondInst(config).fpn.lateral
    assert tuple(conv.in_channels for conv in lateral if isinstance(conv, torch.nn.Conv2d)) == channels


@pytest.mark.parametrize(("depth", "moved"), [(18, 0), (50, 3), (101, 3)])
def test_the_stride_moves_to_the_first_convolution_of_bottlenecks(depth: int, moved: int) -> None:
    with torch.device("meta"):
        plain, msra = (CondInst(CondInstConfig(depth=depth, stride_in_1x1=on)).backbone for on in (False, True))
    strides = [
        (name, module.stride)
        for backbone in (plain, msra)
        for name, module in backbone.named_modules()
        if isinstance(module, torch.nn.Conv2d)
    ]
    half = len(strides) // 2
    changed = {name for before, (name, after) in zip(strides[:half], strides[half:], strict=True) if before[1] != after}
    assert changed == {f"layer{i}.0.conv{j}" for i in (2, 3, 4)[:moved] for j in (1, 2)}


@pytest.mark.parametrize("sides", [(64, 96), (32, 32), (32, 160), (224, 96)])
def test_both_necks_give_five_levels_of_the_same_sizes(sides: tuple[int, int]) -> None:
    image = torch.zeros(1, 3, *sides)
    shapes = []
    for config in (SLIM_ADELAIDET, SLIM_BIFPN):
        model = seeded_model(config)
        with torch.no_grad():
            shapes.append([level.shape for level in model.fpn(model.backbone(image))])
    assert shapes[0] == shapes[1]
    assert [tuple(shape[2:]) for shape in shapes[0]] == [
        (-(-sides[0] // stride), -(-sides[1] // stride)) for stride in STRIDES
    ]


def test_the_semantic_head_works_in_training_alone() -> None:
    image = torch.zeros(2, 3, 64, 96)
    trained = seeded_model(SLIM_BIFPN).train().features(image).semantic_logits
    assert trained is not None
    assert trained.shape == (2, 3, 8, 12)
    assert seeded_model(SLIM_BIFPN).features(image).semantic_logits is None
    assert seeded_model(SLIM_ADELAIDET).train().features(image).semantic_logits is None


@pytest.mark.parametrize("config", [replace(SLIM, semantic_head=True), SLIM_BIFPN], ids=["mmdet", "adelaidet"])
def test_the_mask_branchs_last_layers_begin_as_the_familys(config: CondInstConfig) -> None:
    branch = CondInst(config).mask_branch
    assert branch.semantic is not None
    classifier = branch.semantic[-1]
    fan_in = config.mask_branch_channels
    # Kaiming's uniform for a gain of 1, or PyTorch's own
    bound = (3 / fan_in) ** 0.5 if config.family == "mmdet" else fan_in**-0.5
    for layer in (branch.features, classifier):
        assert isinstance(layer, torch.nn.Conv2d)
        largest = layer.weight.abs().max().item()
        assert 0.9 * bound < largest <= bound
    assert branch.features.bias is not None
    assert (branch.features.bias.abs().max().item() == 0) == (config.family == "mmdet")
    assert isinstance(classifier, torch.nn.Conv2d)
    assert classifier.bias is not None
    torch.testing.assert_close(classifier.bias.sigmoid(), torch.full((3,), 0.01))


def test_the_slim_model_is_slim() -> None:
    assert sum(p.numel() for p in seeded_model().parameters()) <= 2_500_000


def test_a_configuration_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        SLIM.num_classes = 4  # type: ignore[misc]


@pytest.mark.parametrize("name", POSITIVE)
@pytest.mark.parametrize("value", [0, -1])
def test_sizes_must_be_positive(name: str, value: int) -> None:
    with pytest.raises(ConfigError, match=f"{name} is {value}; expected a whole number from 1 to [0-9]+"):
        CondInstConfig(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", POSITIVE)
def test_one_is_enough(name: str) -> None:
    assert getattr(CondInstConfig(**{name: 1}), name) == 1  # type: ignore[arg-type]


@pytest.mark.parametrize("depth", [0, 49, 152])
def test_an_unknown_depth_is_refused(depth: int) -> None:
    with pytest.raises(ConfigError, match=rf"depth is {depth}; expected one of \[18, 34, 50, 101\]"):
        CondInstConfig(depth=depth)


@pytest.mark.parametrize("channels", [-32, 0, 1, 31, 100])
def test_the_towers_norm_needs_its_groups(channels: int) -> None:
    with pytest.raises(ConfigError, match=f"fpn_channels is {channels}; .* multiple of 32"):
        CondInstConfig(fpn_channels=channels)


@pytest.mark.parametrize("channels", [64, 96])
def test_every_width_that_is_accepted_runs_on_the_smallest_image(channels: int) -> None:
    model = seeded_model(replace(SLIM, depth=18, base_width=8, fpn_channels=channels))
    found = model(torch.zeros(1, 3, 32, 32, dtype=torch.uint8), torch.tensor([[1, 1]]))
    assert found.mask_logits.shape == (1, 100, 4, 4)


@pytest.mark.parametrize("config", [CondInstConfig(), SLIM, CUSTOM], ids=["defaults", "slim", "custom"])
def test_to_dict_and_from_dict_are_inverses(config: CondInstConfig, tmp_path: Path) -> None:
    assert CondInstConfig.from_dict(config.to_dict()) == config
    torch.save(config.to_dict(), tmp_path / "config.pth")
    assert CondInstConfig.from_dict(torch.load(tmp_path / "config.pth", weights_only=True)) == config


def test_what_a_dictionary_leaves_out_is_the_default() -> None:
    assert CondInstConfig.from_dict({}) == CondInstConfig()
    assert CondInstConfig.from_dict({"depth": 18, "selection": {"nms_iou": 0.5}}) == CondInstConfig(
        depth=18, selection=Selection(nms_iou=0.5)
    )


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"depth": 51}, "depth is 51"),
        ({"wings": 2, "arms": 1}, "unknown settings wings, arms; expected one of num_classes"),
        ({"num_classes": True}, "num_classes is True; expected a whole number"),
        ({"tower_convs": 10**9}, "tower_convs is 1000000000; expected a whole number from 1 to 64"),
        ({"base_width": 20_000}, "base_width is 20000; expected a whole number from 1 to 1024"),
        ({"fpn_channels": 64.0}, "fpn_channels is 64.0; expected a whole number"),
        ({"depth": [50]}, r"depth is \[50\]; expected a whole number"),
        ({"preprocessing": 3}, "preprocessing is 3; expected a table of settings"),
        ({"preprocessing": {"mean": [1, 2]}}, r"preprocessing\.mean is \[1, 2\]; expected a list of 3 numbers"),
        ({"neck": "pan"}, "neck is 'pan'; expected one of fpn, bifpn"),
        ({"semantic_head": 1}, "semantic_head is 1; expected true or false"),
        ({"stride_in_1x1": None}, "stride_in_1x1 is None; expected true or false"),
        ({"selection": {"family": "adelaidet"}}, "preprocessing is of the family mmdet and selection of adelaidet"),
        ({"preprocessing": {"size": 1}}, r"unknown setting preprocessing\.size"),
        ({"selection": {"size": 1}}, r"unknown setting selection\.size"),
        ({"preprocessing": {"std": [0, 1, 1]}}, r"std\[0\] is 0.0; expected a number above 0"),
        ({"preprocessing": {"short_side": 100, "long_side": 99}}, "1 <= short <= long"),
        ({"preprocessing": {"pad_divisor": 48}}, "multiple of 32"),
        ({"selection": {"score_threshold": 1.5}}, "score_threshold is 1.5"),
        ({"selection": {"score_threshold": float("nan")}}, "score_threshold is nan"),
        ({"selection": {"max_detections": 0}}, "max_detections is 0"),
    ],
)
def test_a_dictionary_that_cannot_be_used_is_refused(values: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        CondInstConfig.from_dict(values)
