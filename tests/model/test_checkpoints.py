"""mmdetection's checkpoints: architecture, classes and weights are read off the file; what does not fit is listed."""

import subprocess
import sys
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from torch import Tensor

from condinst_deploy.contract.coco_classes import COCO_CLASSES
from condinst_deploy.errors import CheckpointError
from condinst_deploy.model.checkpoints import load_model, save_model
from condinst_deploy.model.condinst import CondInst
from condinst_deploy.model.config import CondInstConfig
from condinst_deploy.support.digests import sha256_of
from tests.support.checkpoints import assert_same_outputs, assert_same_weights, own_content, saved
from tests.support.mmdet_names import mmdet_key, mmdet_state_of
from tests.support.models import SLIM, TINY, mmdet_shapes, seeded_model

pytestmark = pytest.mark.usefixtures("one_thread")


def test_the_tests_own_renaming_gives_exactly_mmdetections_keys() -> None:
    assert {mmdet_key(key) for key in CondInst(SLIM).state_dict()} == set(mmdet_shapes())


@pytest.fixture(scope="module")
def mmengine_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A slim model as mmengine's runner saves it: a message hub, schedulers, an optimizer, numpy values."""
    reason = "writes a checkpoint with mmengine's own classes: pip install '.[dev]'"
    MessageHub = pytest.importorskip("mmengine.logging", reason=reason).MessageHub
    ConfigDict = pytest.importorskip("mmengine.config", reason=reason).ConfigDict
    MultiStepLR = pytest.importorskip("mmengine.optim", reason=reason).MultiStepLR

    model = seeded_model()
    hub = MessageHub.get_instance("test_checkpoints")
    for value in (0.5, np.float32(0.25), np.float64(0.125), torch.tensor(1.0)):
        hub.update_scalar("train/loss", value)
    hub.update_info("best", np.int64(3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    content = {
        "meta": {
            "epoch": np.int64(12),
            "cfg": ConfigDict(model={"type": "CondInst"}, workers=[1, 2]),
            "dataset_meta": {"classes": ("ant", "bee", "cat"), "palette": np.arange(9).reshape(3, 3)},
        },
        "state_dict": mmdet_state_of(model),
        "message_hub": hub.state_dict(),
        "optimizer": optimizer.state_dict(),
        "param_schedulers": [MultiStepLR(optimizer, milestones=[60, 80]).state_dict()],
        "best": OrderedDict(mask_ap=np.float64(0.36), flag=np.bool_(True)),
    }
    return saved(tmp_path_factory.mktemp("mmengine") / "condinst.pth", content)


WITHOUT_MMENGINE = """
import sys
sys.modules["mmengine"] = None
try:
    import mmengine
except ImportError:
    pass
else:
    sys.exit("mmengine could be imported")
from condinst_deploy.model.checkpoints import load_model, save_model
loaded = load_model(sys.argv[1])
save_model(sys.argv[2], loaded.model, loaded.manifest)
print(loaded.note)
"""


def test_a_file_of_mmengines_runner_loads_where_mmengine_cannot_be_imported(
    mmengine_file: Path, tmp_path: Path
) -> None:
    stored = mmengine_file.read_bytes()
    globals_of_the_file = (b"HistoryBuffer", b"__builtin__\ngetattr", b"ConfigDict", b"scalar", b"_reconstruct")
    assert [name for name in globals_of_the_file if name not in stored] == []
    copy = tmp_path / "copy.pth"
    command = [sys.executable, "-c", WITHOUT_MMENGINE, str(mmengine_file), str(copy)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("mmdetection CondInst, ResNet-50, 3 classes; ")
    loaded = load_model(copy)
    assert_same_weights(loaded.model, seeded_model())
    assert_same_outputs(loaded.model, seeded_model())
    assert loaded.manifest.class_names == ("ant", "bee", "cat")
    assert (loaded.manifest.source, loaded.manifest.source_sha256) == ("condinst.pth", sha256_of(mmengine_file))


@pytest.mark.parametrize("wrapped", ["state_dict", "model", None])
@pytest.mark.parametrize("zipped", [True, False], ids=["zip file", "file of before PyTorch 1.6"])
def test_a_state_dict_loads(wrapped: str | None, zipped: bool, tmp_path: Path) -> None:
    state = mmdet_state_of(seeded_model(TINY))
    path = tmp_path / "model.pth"
    torch.save(state if wrapped is None else {wrapped: state}, path, _use_new_zipfile_serialization=zipped)
    loaded = load_model(path)
    assert_same_weights(loaded.model, seeded_model(TINY))
    assert not loaded.model.training
    assert (loaded.manifest.class_names, loaded.manifest.category_ids) == (("class_0", "class_1", "class_2"), (1, 2, 3))


ARCHITECTURES = {
    "ResNet-18": TINY,
    "ResNet-34, one class": replace(TINY, depth=34, base_width=16, num_classes=1),
    "ResNet-101": replace(TINY, depth=101, tower_convs=2),
    "ResNet-50, 96 channels": replace(TINY, depth=50, fpn_channels=96, mask_branch_convs=3),
    "mask head of width 6": replace(TINY, dynamic_channels=6),
    "no feature of the published size": replace(TINY, mask_channels=4, num_classes=7, tower_convs=3),
}


@pytest.mark.parametrize("config", ARCHITECTURES.values(), ids=ARCHITECTURES)
def test_the_architecture_is_read_off_the_tensors(config: CondInstConfig, tmp_path: Path) -> None:
    original = seeded_model(config)
    loaded = load_model(saved(tmp_path / "model.pth", {"state_dict": mmdet_state_of(original)}))
    assert loaded.model.config == config
    classes = "1 class" if config.num_classes == 1 else f"{config.num_classes} classes"
    assert loaded.note.startswith(f"mmdetection CondInst, ResNet-{config.depth}, {classes} (")
    assert_same_weights(loaded.model, original)
    assert_same_outputs(loaded.model, original)


def test_boxinst_loads_with_its_count_of_training_steps(tmp_path: Path) -> None:
    config = replace(TINY, mask_channels=16, dynamic_channels=16)
    original = seeded_model(config)
    state = mmdet_state_of(original)
    assert state["bbox_head.controller.weight"].shape[0] == 593
    state["mask_head._iter"] = torch.tensor([90_000.0])
    loaded = load_model(saved(tmp_path / "model.pth", {"state_dict": state}))
    assert loaded.model.config == config
    assert "with BoxInst's mask head (16 mask channels, 16 hidden ones), 3 classes" in loaded.note
    assert_same_weights(loaded.model, original)
    assert_same_outputs(loaded.model, original)
    # our own format keeps the widths
    save_model(tmp_path / "own.pth", loaded.model, loaded.manifest)
    again = load_model(tmp_path / "own.pth")
    assert again.model.config == config
    assert_same_outputs(again.model, original)


@pytest.mark.parametrize("num_params", [153, 170, 592, 1, 10**6])
def test_a_controller_of_another_mask_head_is_refused_with_its_size(num_params: int, tmp_path: Path) -> None:
    state = mmdet_state_of(seeded_model(TINY))
    state["bbox_head.controller.weight"] = torch.zeros(1).expand(num_params, 64, 3, 3)
    with pytest.raises(CheckpointError, match=rf"predicts {num_params} parameters, which do not make .* 8 mask chan"):
        load_model(saved(tmp_path / "model.pth", {"state_dict": state}))


THREE = ("ant", "bee", "cat")
DEFAULT = ("class_0", "class_1", "class_2")


@pytest.mark.parametrize(
    ("meta", "names"),
    [
        ({"dataset_meta": {"classes": THREE}}, THREE),
        ({"dataset_meta": {"classes": list(THREE)}}, THREE),
        ({"dataset_meta": {"CLASSES": THREE}}, THREE),
        ({"CLASSES": THREE, "PALETTE": None}, THREE),
        ({"CLASSES": list(THREE)}, THREE),
        ({"CLASSES": None}, DEFAULT),
        ({"CLASSES": THREE[:2]}, DEFAULT),
        ({"dataset_meta": {}}, DEFAULT),
        ({}, DEFAULT),
        (None, DEFAULT),
    ],
)
def test_class_names_come_from_meta(meta: Any, names: tuple[str, ...], tmp_path: Path) -> None:
    state = mmdet_state_of(seeded_model(TINY))
    manifest = load_model(saved(tmp_path / "model.pth", {"meta": meta, "state_dict": state})).manifest
    assert (manifest.class_names, manifest.category_ids) == (names, (1, 2, 3))


COCO_NAMES, COCO_IDS = tuple(COCO_CLASSES.values()), tuple(COCO_CLASSES)
OTHERS = tuple(f"thing {i}" for i in range(80))


@pytest.mark.parametrize(
    ("meta", "names", "ids"),
    [
        ({}, COCO_NAMES, COCO_IDS),
        ({"CLASSES": COCO_NAMES}, COCO_NAMES, COCO_IDS),
        ({"CLASSES": OTHERS}, OTHERS, tuple(range(1, 81))),
    ],
    ids=["unnamed", "COCO's", "others"],
)
def test_eighty_classes_are_cocos_unless_named_otherwise(
    meta: dict[str, Any], names: tuple[str, ...], ids: tuple[int, ...], tmp_path: Path
) -> None:
    state = mmdet_state_of(seeded_model(replace(TINY, num_classes=80)))
    manifest = load_model(saved(tmp_path / "model.pth", {"meta": meta, "state_dict": state})).manifest
    assert (manifest.class_names, manifest.category_ids) == (names, ids)
    assert COCO_IDS[-1] == 90


def test_counters_of_training_steps_may_be_missing_and_normalisation_may_be_there(tmp_path: Path) -> None:
    state = mmdet_state_of(seeded_model(TINY))
    counters = [key for key in state if key.endswith("num_batches_tracked")]
    assert counters
    for key in counters:
        del state[key]
    state["data_preprocessor.mean"] = torch.tensor([1.0, 2.0, 3.0]).reshape(3, 1, 1)
    loaded = load_model(saved(tmp_path / "model.pth", state))
    assert_same_weights(loaded.model, seeded_model(TINY))
    assert loaded.manifest.preprocessing.mean == (1.0, 2.0, 3.0)
    assert loaded.model.normalize.mean.flatten().tolist() == [1.0, 2.0, 3.0]
    state["data_preprocessor.std"] = torch.zeros(3, 1, 1)
    with pytest.raises(CheckpointError, match=r"std\[0\] is 0.0; expected a number above 0"):
        load_model(saved(tmp_path / "model.pth", state))


def test_variances_below_0_are_refused(tmp_path: Path) -> None:
    state = mmdet_state_of(seeded_model(TINY))
    state["backbone.bn1.running_var"] = -torch.ones_like(state["backbone.bn1.running_var"])
    with pytest.raises(CheckpointError, match=r"negative: backbone\.bn1\.running_var"):
        load_model(saved(tmp_path / "model.pth", state))


def test_an_mmdetection_state_with_a_key_that_is_a_number_is_refused(tmp_path: Path) -> None:
    state: dict[Any, Tensor] = {**mmdet_state_of(seeded_model(TINY)), 1: torch.zeros(1)}
    with pytest.raises(CheckpointError, match="unmapped: 1"):
        load_model(saved(tmp_path / "model.pth", state))


# ---- weights that do not fit


def test_everything_that_does_not_fit_is_listed_in_one_error(tmp_path: Path) -> None:
    state = mmdet_state_of(seeded_model(TINY))
    del state["bbox_head.controller.bias"]
    del state["neck.fpn_convs.4.conv.weight"]
    state["bbox_head.conv_reg.weight"] = torch.zeros(5, 64, 3, 3)
    state["bbox_head.scales.2.scale"] = torch.zeros(1)
    state["bbox_head.extra.weight"] = torch.zeros(1)
    state["bbox_head.conv_cls.bias"] = torch.tensor([0.0, float("nan"), 0.0])
    state["backbone.fc.weight"] = torch.zeros(2, 2)
    path = saved(tmp_path / "model.pth", {"state_dict": state})
    with pytest.raises(CheckpointError) as caught:
        load_model(path)
    message = str(caught.value)
    assert message.startswith(f"{path} does not fit the model, 7 problems: ")
    assert sorted(message.partition(" problems: ")[2].split("; ")) == [
        "mis-shaped: bbox_head.conv_reg.weight is (5, 64, 3, 3), expected (4, 64, 3, 3)",
        "mis-shaped: bbox_head.scales.2.scale is (1,), expected ()",
        "missing: fpn.p7.weight",
        "missing: head.controller.bias",
        "not finite: bbox_head.conv_cls.bias holds NaN or infinity",
        "unmapped: backbone.fc.weight (it would be backbone.fc.weight)",
        "unmapped: bbox_head.extra.weight",
    ]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize(
    ("theirs", "key"),
    [(True, "neck.fpn_convs.1.conv.weight"), (True, "backbone.bn1.running_var"), (False, "head.scales.4")],
)
def test_weights_that_are_not_finite_are_refused_by_name(value: float, theirs: bool, key: str, tmp_path: Path) -> None:
    model = seeded_model(TINY)
    state = mmdet_state_of(model) if theirs else model.state_dict()
    state[key].view(-1)[-1] = value
    content = {"state_dict": state} if theirs else own_content(state_dict=state)
    with pytest.raises(CheckpointError, match=f"not finite: {key}"):
        load_model(saved(tmp_path / "model.pth", content))


def test_a_value_that_is_not_a_tensor_is_listed_as_mis_shaped(tmp_path: Path) -> None:
    state: dict[str, Any] = {**mmdet_state_of(seeded_model(TINY)), "bbox_head.conv_reg.bias": [0.0] * 4}
    with pytest.raises(CheckpointError, match=r"mis-shaped: bbox_head\.conv_reg\.bias is list, expected \(4,\)"):
        load_model(saved(tmp_path / "model.pth", state))


FOREIGN: dict[str, Callable[[], Any]] = {
    "torchvision's ResNet": lambda: torchvision.models.resnet18(weights=None).state_dict(),
    "AdelaiDet's keys": lambda: {"model": {"proposal_generator.fcos_head.cls_logits.weight": torch.zeros(1)}},
    "an empty dictionary": dict,
    "an empty state": lambda: {"state_dict": {}},
    "a state that is a list": lambda: {"state_dict": [torch.zeros(1)]},
    "a tensor": lambda: torch.zeros(3),
    "a list": lambda: [torch.zeros(3)],
    "mmdetection's FCOS": lambda: {"state_dict": {"bbox_head.conv_centerness.weight": torch.zeros(1)}},
    "a lone controller": lambda: {"bbox_head.controller.weight": torch.zeros(1)},
}


@pytest.mark.parametrize("content", FOREIGN.values(), ids=FOREIGN)
def test_a_foreign_file_is_refused_by_name(content: Callable[[], Any], tmp_path: Path) -> None:
    path = saved(tmp_path / "model.pth", content())
    with pytest.raises(CheckpointError, match="expected"):
        load_model(path)


def test_a_backbone_of_no_known_depth_is_refused_with_its_blocks(tmp_path: Path) -> None:
    state = mmdet_state_of(seeded_model(TINY))
    state = OrderedDict((k, v) for k, v in state.items() if not k.startswith("backbone.layer3.1."))
    with pytest.raises(CheckpointError, match=r"\(2, 2, 1, 2\) basic blocks.*\[18, 34, 50, 101\]"):
        load_model(saved(tmp_path / "model.pth", state))
