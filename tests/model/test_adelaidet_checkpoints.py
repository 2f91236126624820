"""AdelaiDet's checkpoints: recognised by their keys, loaded without a key left over, refused where they do not fit."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from condinst_deploy.contract.coco_classes import COCO_CLASSES
from condinst_deploy.errors import CheckpointError
from condinst_deploy.model.checkpoints import load_model, own_content, save_model
from condinst_deploy.model.config import CondInstConfig
from condinst_deploy.model.family_settings import ADELAIDET_PREPROCESSING, ADELAIDET_SELECTION
from tests.support.adelaidet_names import adelaidet_state_of
from tests.support.checkpoints import assert_same_weights, saved
from tests.support.mmdet_names import mmdet_state_of
from tests.support.models import (
    ADELAIDET_KEYS,
    SHIPPED,
    SLIM,
    SLIM_ADELAIDET,
    SLIM_BIFPN,
    adelaidet_shapes,
    manifest_of,
    seeded_model,
)

pytestmark = pytest.mark.usefixtures("one_thread")


def config_of(architecture: str) -> CondInstConfig:
    """Values of the published configuration."""
    bifpn = "BiFPN" in architecture
    return CondInstConfig(
        depth=101 if "101" in architecture else 50,
        stride_in_1x1=True,
        neck="bifpn" if bifpn else "fpn",
        fpn_channels=160 if bifpn else 256,
        semantic_head=architecture.endswith("_sem"),
        preprocessing=ADELAIDET_PREPROCESSING,
        selection=ADELAIDET_SELECTION,
    )


@pytest.mark.parametrize("architecture", ADELAIDET_KEYS)
def test_every_architecture_loads_with_nothing_left_over(architecture: str, tmp_path: Path) -> None:
    shapes = adelaidet_shapes(architecture)
    state = {key: torch.zeros(()).expand(shape) for key, shape in shapes.items()}  # a file of nothing but names
    loaded = load_model(saved(tmp_path / "model.pth", {"model": state}))
    assert loaded.model.config == config_of(architecture)
    assert loaded.note.startswith(f"AdelaiDet CondInst, {loaded.model.config.title}, 80 classes")
    assert loaded.manifest.family == "adelaidet"
    assert (loaded.manifest.class_names, loaded.manifest.category_ids) == (
        tuple(COCO_CLASSES.values()),
        tuple(COCO_CLASSES),
    )
    assert set(shapes) == set(adelaidet_state_of(loaded.model))


KINDS = {
    "FPN": SLIM_ADELAIDET,
    "BiFPN with a semantic head": SLIM_BIFPN,
    "FPN with a semantic head, ResNet-101": replace(
        SLIM_ADELAIDET, depth=101, base_width=8, semantic_head=True, tower_convs=2, mask_branch_convs=3
    ),
    "BoxInst": replace(SLIM_ADELAIDET, mask_channels=16),
    "BoxInst, BiFPN, ResNet-101": replace(SLIM_BIFPN, depth=101, base_width=8, semantic_head=False, mask_channels=16),
    "BiFPN, ResNet-18": replace(SLIM_BIFPN, depth=18, stride_in_1x1=False, semantic_head=False, mask_channels=4),
}


@pytest.mark.parametrize("wrapped", [True, False], ids=["in a dictionary", "bare"])
@pytest.mark.parametrize("config", KINDS.values(), ids=KINDS)
def test_every_tensor_finds_its_place(config: CondInstConfig, wrapped: bool, tmp_path: Path) -> None:
    original = seeded_model(config)
    state = adelaidet_state_of(original)
    loaded = load_model(saved(tmp_path / "model.pth", {"model": state, "iteration": 7} if wrapped else state))
    # a checkpoint does not tell for what image size it was trained
    assert loaded.model.config == replace(config, preprocessing=ADELAIDET_PREPROCESSING)
    ours, want = loaded.model.state_dict(), original.state_dict()
    assert ours.keys() == want.keys()
    assert [key for key in want if not torch.equal(ours[key], want[key])] == []


def test_the_stem_sees_rgb_where_adelaidets_sees_bgr(tmp_path: Path) -> None:
    original = seeded_model(SLIM_ADELAIDET)
    state = adelaidet_state_of(original)
    loaded = load_model(saved(tmp_path / "model.pth", state)).model
    bgr = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    theirs = torch.nn.functional.conv2d(bgr, state["backbone.bottom_up.stem.conv1.weight"], stride=2, padding=3)
    torch.testing.assert_close(loaded.backbone.conv1(bgr.flip(1)), theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("config", [SLIM_ADELAIDET, SLIM_BIFPN], ids=["FPN", "BiFPN"])
def test_our_own_format_carries_the_whole_configuration(config: CondInstConfig, tmp_path: Path) -> None:
    original = seeded_model(config)
    save_model(tmp_path / "model.pth", original, manifest_of(config))
    loaded = load_model(tmp_path / "model.pth", "adelaidet")
    assert loaded.model.config == config
    assert loaded.manifest.family == "adelaidet"
    assert all(torch.equal(loaded.model.state_dict()[key], value) for key, value in original.state_dict().items())


NEW_SETTINGS = ("stride_in_1x1", "neck", "bifpn_repeats", "semantic_head")


def test_our_own_files_written_before_there_were_families_load_unchanged(tmp_path: Path) -> None:
    content = own_content(seeded_model(SLIM), manifest_of(SLIM))
    old = {key: value for key, value in content["config"].items() if key not in NEW_SETTINGS}
    for part in ("preprocessing", "selection"):
        old[part] = {key: value for key, value in old[part].items() if key != "family"}
    manifest = content["manifest"].replace(',"family":"mmdet"}', "}")
    assert manifest.count("family") == 1
    loaded = load_model(saved(tmp_path / "model.pth", content | {"config": old, "manifest": manifest}))
    assert loaded.model.config == SLIM
    assert loaded.manifest.family == "mmdet"


def test_the_shipped_model_loads_unchanged() -> None:
    path = SHIPPED
    stored = torch.load(path, weights_only=True)
    loaded = load_model(path)
    assert (loaded.manifest.family, loaded.model.config.neck) == ("mmdet", "fpn")
    state = loaded.model.state_dict()
    assert state.keys() == stored["state_dict"].keys()
    assert all(torch.equal(state[key], value) for key, value in stored["state_dict"].items())


def test_the_family_can_be_named_and_a_wrong_name_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "model.pth", {"model": adelaidet_state_of(seeded_model(SLIM_ADELAIDET))})
    assert load_model(path, "adelaidet").manifest.family == "adelaidet"
    with pytest.raises(CheckpointError, match="is a model of the family adelaidet; expected mmdet"):
        load_model(path, "mmdet")
    save_model(tmp_path / "own.pth", seeded_model(SLIM), manifest_of(SLIM))
    with pytest.raises(CheckpointError, match="is a model of the family mmdet; expected adelaidet"):
        load_model(tmp_path / "own.pth", "adelaidet")


def test_everything_that_does_not_fit_is_listed_in_adelaidets_names(tmp_path: Path) -> None:
    state = adelaidet_state_of(seeded_model(SLIM_ADELAIDET))
    del state["controller.bias"]
    state["proposal_generator.fcos_head.scales.2.scale"] = torch.zeros(2)
    state["proposal_generator.fcos_head.bbox_pred.weight"] = torch.zeros(5, 64, 3, 3)
    state["backbone.bottom_up.stem.conv1.weight"] = torch.full((16, 3, 7, 7), float("nan"))
    state["backbone.bottom_up.res5.0.conv4.weight"] = torch.zeros(18, 128, 3, 3)
    state["backbone.bottom_up.res2.9.conv1.norm.weight"] = torch.zeros(16)
    state["top_module.weight"] = torch.zeros(1)
    path = saved(tmp_path / "model.pth", {"model": state})
    with pytest.raises(CheckpointError, match=r"backbone has \(4, 4, 6, 3\) bottleneck blocks"):
        load_model(path)
    del state["backbone.bottom_up.res2.9.conv1.norm.weight"]
    saved(path, {"model": state})
    with pytest.raises(CheckpointError) as caught:
        load_model(path)
    assert sorted(str(caught.value).partition(" problems: ")[2].split("; ")) == [
        "mis-shaped: proposal_generator.fcos_head.bbox_pred.weight is (5, 64, 3, 3), expected (4, 64, 3, 3)",
        "mis-shaped: proposal_generator.fcos_head.scales.2.scale is (2,), expected ()",
        "missing: head.controller.bias",
        "not finite: backbone.bottom_up.stem.conv1.weight holds NaN or infinity",
        "unmapped: backbone.bottom_up.res5.0.conv4.weight (it would be backbone.layer4.0.conv4.weight)",
        "unmapped: top_module.weight",
    ]


@pytest.mark.parametrize(
    "missing", ["proposal_generator.fcos_head.cls_logits.weight", "mask_branch.refine.0.0.weight", "controller.weight"]
)
def test_an_incomplete_model_is_refused(missing: str, tmp_path: Path) -> None:
    state = adelaidet_state_of(seeded_model(SLIM_ADELAIDET))
    del state[missing]
    with pytest.raises(CheckpointError, match=r"expected (mmdetection's or AdelaiDet's|a tensor)"):
        load_model(saved(tmp_path / "model.pth", {"model": state}))


PREFIXES = ("", "module.", "_orig_mod.", "model.", "module.module.", "_orig_mod.module.", "model._orig_mod.module.")
ENTRIES = ("state_dict", "model", None)


@pytest.mark.parametrize(
    ("entry", "prefix"), [(ENTRIES[i % 3], prefix) for i, prefix in enumerate(PREFIXES)] + [("model", "module.")]
)
def test_weights_are_found_under_either_entry_and_behind_a_wrappers_prefix(
    entry: str | None, prefix: str, tmp_path: Path
) -> None:
    original = seeded_model(SLIM_ADELAIDET)
    state = {prefix + key: value for key, value in adelaidet_state_of(original).items()}
    content = state if entry is None else {"model": {"type": "CondInst"}, entry: state}
    loaded = load_model(saved(tmp_path / "model.pth", content))
    weights = loaded.model.state_dict()
    assert all(torch.equal(weights[key], value) for key, value in original.state_dict().items())
    remark = f"the prefix {prefix!r} of all keys, which wrappers of PyTorch models leave, was taken off"
    assert loaded.note.endswith(remark) == bool(prefix)
    assert ("taken off" in loaded.note) == bool(prefix)


def test_a_part_that_was_compiled_by_itself_finds_its_place(tmp_path: Path) -> None:
    original = seeded_model(SLIM_ADELAIDET)
    state = {key.replace("bottom_up.", "bottom_up._orig_mod."): v for key, v in adelaidet_state_of(original).items()}
    loaded = load_model(saved(tmp_path / "model.pth", {"model": state}))
    assert_same_weights(loaded.model, original)


@pytest.mark.parametrize("content", ["bare", "state_dict", "own"])
def test_a_file_half_of_whose_keys_have_a_prefix_is_one_clear_error(content: str, tmp_path: Path) -> None:
    original = seeded_model(SLIM_ADELAIDET)
    plain = adelaidet_state_of(original)
    half = len(plain) // 2
    state = {key if i < half else f"module.{key}": value for i, (key, value) in enumerate(plain.items())}
    own = own_content(original, manifest_of(SLIM_ADELAIDET)) | {"state_dict": state}
    whole: dict[str, Any] = {"bare": state, "state_dict": {"state_dict": state}, "own": own}
    with pytest.raises(CheckpointError) as caught:
        load_model(saved(tmp_path / "model.pth", whole[content]))
    assert f": {len(plain) - half} keys of {len(plain)} have a prefix" in str(caught.value)
    assert "('module.', such as 'module." in str(caught.value)
    assert "FCOS" not in str(caught.value)


def test_prefixes_that_only_some_keys_have_are_named(tmp_path: Path) -> None:
    state = {f"module.model.{key}": value for key, value in adelaidet_state_of(seeded_model(SLIM_ADELAIDET)).items()}
    state["module.loss.weight"] = torch.zeros(1)
    with pytest.raises(CheckpointError, match=r"\('model\.', such as .*others have none, such as 'loss\.weight'"):
        load_model(saved(tmp_path / "model.pth", state))


def test_two_keys_that_differ_in_a_wrappers_name_alone_are_not_made_one(tmp_path: Path) -> None:
    state = adelaidet_state_of(seeded_model(SLIM_ADELAIDET))
    state["mask_branch._orig_mod.refine.0.0.weight"] = torch.zeros(1)
    with pytest.raises(CheckpointError, match=r"unmapped: mask_branch\._orig_mod"):
        load_model(saved(tmp_path / "model.pth", state))


@pytest.mark.parametrize(
    ("key", "family"),
    [
        ("backbone.bottom_up.backbone.res3.0.conv2_offset.weight", "adelaidet"),
        ("proposal_generator.fcos_head.cls_tower.9.offset.bias", "adelaidet"),
        ("backbone.layer2.0.conv2.conv_offset.weight", "mmdet"),
        ("backbone.layer2.0.conv2.conv_offset_mask.bias", "mmdet"),
    ],
)
def test_deformable_convolutions_are_refused_by_name(key: str, family: str, tmp_path: Path) -> None:
    state = (
        mmdet_state_of(seeded_model(SLIM)) if family == "mmdet" else adelaidet_state_of(seeded_model(SLIM_ADELAIDET))
    )
    state[key] = torch.zeros(1)
    with pytest.raises(CheckpointError, match=rf"deformable convolutions \(1 tensor .* first: {re.escape(key)}\)"):
        load_model(saved(tmp_path / "model.pth", {"model": state}))


def test_fcos_is_called_by_its_name(tmp_path: Path) -> None:
    state = adelaidet_state_of(seeded_model(SLIM_ADELAIDET))
    fcos = {key: value for key, value in state.items() if not key.startswith(("controller.", "mask_"))}
    with pytest.raises(CheckpointError, match="is FCOS without a controller, which finds boxes and no masks; expected"):
        load_model(saved(tmp_path / "model.pth", {"model": fcos}))


def test_a_foreign_model_is_refused_with_the_keys_of_its_weights(tmp_path: Path) -> None:
    path = saved(tmp_path / "model.pth", {"model": {"roi_heads.weight": torch.zeros(1)}, "iteration": 3})
    with pytest.raises(CheckpointError, match=r"first keys: roi_heads\.weight\); expected AdelaiDet's CondInst or"):
        load_model(path, "adelaidet")


@pytest.mark.parametrize("key", ["controller.weight", "controller.bias"])
def test_numpy_arrays_in_place_of_tensors_are_named(key: str, tmp_path: Path) -> None:
    state: dict[str, Any] = adelaidet_state_of(seeded_model(SLIM_ADELAIDET))
    state[key] = state[key].numpy()
    message = rf"holds 1 weight without a tensor, such as numpy arrays \(the first: {re.escape(key)}\)"
    with pytest.raises(CheckpointError, match=message):
        load_model(saved(tmp_path / "model.pth", {"model": state}))


def test_a_tensor_without_axes_is_named(tmp_path: Path) -> None:
    state = adelaidet_state_of(seeded_model(SLIM_ADELAIDET)) | {"controller.weight": torch.zeros(())}
    with pytest.raises(CheckpointError, match=r"a tensor controller\.weight of 2 axes or more; its shape is \(\)"):
        load_model(saved(tmp_path / "model.pth", state))
