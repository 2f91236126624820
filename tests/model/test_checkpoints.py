import builtins
import io
import os
import pickle
import resource
import signal
import subprocess
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from torch import Tensor

from condinst_deploy.coco_classes import COCO_CLASSES
from condinst_deploy.contract import Selection
from condinst_deploy.errors import CheckpointError, OutputError
from condinst_deploy.model.checkpoints import load_model, save_model, sha256_of
from condinst_deploy.model.condinst import CondInst
from condinst_deploy.model.config import CondInstConfig
from condinst_deploy.model.safe_load import Inert, load_checkpoint_file
from tests.models import SLIM, TINY, manifest_of, mmdet_shapes, noise_picture, seeded_model

HEAD_PARTS = {
    "cls_tower": "cls_convs",
    "box_tower": "reg_convs",
    "cls_logits": "conv_cls",
    "box_pred": "conv_reg",
    "centerness": "conv_centerness",
    "controller": "controller",
    "scales": "scales",
}


def mmdet_key(key: str) -> str:
    """The name that mmdetection gives what this model calls `key`."""
    module, part, *rest = key.split(".")
    if module == "backbone":
        return key
    if module == "fpn":
        if part == "lateral":
            return ".".join(["neck.lateral_convs", rest[0], "conv", *rest[1:]])
        if part == "output":
            return ".".join(["neck.fpn_convs", rest[0], "conv", *rest[1:]])
        return ".".join(["neck.fpn_convs", {"p6": "3", "p7": "4"}[part], "conv", *rest])
    if module == "head":
        rest = ["gn" if name == "norm" else name for name in rest]
        return ".".join(["bbox_head", HEAD_PARTS[part], *rest] + (["scale"] if part == "scales" else []))
    rest = ["bn" if name == "norm" else name for name in rest]
    if part == "refine":
        rest = [rest[0], f"conv{rest[0]}", *rest[1:]]
    names = {"refine": "convs_all_levels", "tower": "conv_branch", "features": "conv_pred"}
    return ".".join(["mask_head.mask_feature_head", names[part], *rest])


def mmdet_state_of(model: CondInst) -> OrderedDict[str, Tensor]:
    return OrderedDict((mmdet_key(key), value) for key, value in model.state_dict().items())


def assert_same_weights(model: CondInst, expected: CondInst) -> None:
    state, want = model.state_dict(), expected.state_dict()
    assert state.keys() == want.keys()
    assert [key for key in want if not torch.equal(state[key], want[key])] == []


def assert_same_outputs(model: CondInst, expected: CondInst) -> None:
    picture = torch.from_numpy(noise_picture(0, 160, 288)).permute(2, 0, 1)[None]
    size = torch.tensor([[150, 260]], dtype=torch.int32)
    with torch.no_grad():
        features, want = (m.features(m.normalize(picture, size)) for m in (model, expected))
    assert torch.equal(features.mask_feats, want.mask_feats)
    for level, want_level in zip(features.levels, want.levels, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(level, want_level, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(model(picture, size), expected(picture, size), strict=True))


def saved(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


pytestmark = pytest.mark.usefixtures("one_thread")


def test_the_tests_own_renaming_gives_exactly_mmdetections_keys() -> None:
    assert {mmdet_key(key) for key in CondInst(SLIM).state_dict()} == set(mmdet_shapes())


# ---- mmdetection's files


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
    "no feature of the published size": replace(TINY, mask_channels=4, num_classes=7, tower_convs=3),
}


@pytest.mark.parametrize("config", ARCHITECTURES.values(), ids=ARCHITECTURES)
def test_the_architecture_is_read_off_the_tensors(config: CondInstConfig, tmp_path: Path) -> None:
    original = seeded_model(config)
    loaded = load_model(saved(tmp_path / "model.pth", {"state_dict": mmdet_state_of(original)}))
    assert loaded.model.config == config
    assert loaded.note.startswith(f"mmdetection CondInst, ResNet-{config.depth}, {config.num_classes} classes")
    assert_same_weights(loaded.model, original)
    assert_same_outputs(loaded.model, original)


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
    with pytest.raises(CheckpointError, match="std above 0"):
        load_model(saved(tmp_path / "model.pth", state))


def test_variances_below_0_are_refused(tmp_path: Path) -> None:
    state = mmdet_state_of(seeded_model(TINY))
    state["backbone.bn1.running_var"] = -torch.ones_like(state["backbone.bn1.running_var"])
    with pytest.raises(CheckpointError, match=r"negative: backbone\.bn1\.running_var"):
        load_model(saved(tmp_path / "model.pth", state))


# ---- the toolkit's own format


def test_the_own_format_keeps_weights_configuration_and_manifest(tmp_path: Path) -> None:
    config = replace(TINY, selection=Selection(score_threshold=0.01, candidates_per_level=50, max_detections=7))
    model = seeded_model(config)
    manifest = replace(manifest_of(config), source="original.pth", source_sha256="ab" * 32)
    save_model(tmp_path / "new" / "folder" / "model.pth", model, manifest)
    loaded = load_model(tmp_path / "new" / "folder" / "model.pth")
    assert (loaded.model.config, loaded.manifest) == (config, manifest)
    assert loaded.note == "condinst-deploy checkpoint, ResNet-18, 3 classes"
    assert not loaded.model.training
    assert_same_weights(loaded.model, model)
    assert_same_outputs(loaded.model, model)


def test_the_own_format_is_read_behind_a_wrappers_prefix(tmp_path: Path) -> None:
    state = {f"module.{key}": value for key, value in CondInst(TINY).state_dict().items()}
    loaded = load_model(saved(tmp_path / "model.pth", own_content(state_dict=state)))
    assert all(torch.equal(loaded.model.state_dict()[key.removeprefix("module.")], state[key]) for key in state)
    assert "the prefix 'module.' of all keys" in loaded.note
    state["backbone.odd"] = state.pop("module.head.controller.bias")
    with pytest.raises(CheckpointError, match=r"unmapped: module\.backbone"):
        load_model(saved(tmp_path / "model.pth", own_content(state_dict=state)))


def test_saving_twice_gives_the_same_weights_and_replaces_the_file(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    save_model(path, seeded_model(TINY, seed=1), manifest_of(TINY))
    save_model(path, seeded_model(TINY), manifest_of(TINY))
    assert_same_weights(load_model(path).model, seeded_model(TINY))
    assert list(tmp_path.iterdir()) == [path]


def own_content(**changes: Any) -> dict[str, Any]:
    content = {
        "format": "condinst-deploy",
        "config": TINY.to_dict(),
        "manifest": manifest_of(TINY).to_json(),
        "state_dict": seeded_model(TINY).state_dict(),
    }
    return content | changes


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"config": None}, "unusable settings"),
        ({"config": {"depth": 51}}, "depth is 51"),
        ({"config": {"wings": 2}}, "wings"),
        ({"config": {"num_classes": "3"}}, "unusable settings"),
        ({"manifest": "{"}, "not JSON"),
        ({"manifest": None}, "unusable settings"),
        ({"manifest": manifest_of(replace(TINY, num_classes=2)).to_json()}, "names 2 classes for a model of 3"),
        ({"state_dict": {}}, "missing: backbone.conv1.weight"),
    ],
)
def test_an_own_file_with_unusable_settings_is_refused(changes: dict[str, Any], reason: str, tmp_path: Path) -> None:
    path = saved(tmp_path / "model.pth", own_content(**changes))
    with pytest.raises(CheckpointError, match=reason) as caught:
        load_model(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("entry", ["config", "manifest", "state_dict"])
def test_an_own_file_without_an_entry_is_refused(entry: str, tmp_path: Path) -> None:
    content = own_content()
    del content[entry]
    with pytest.raises(CheckpointError, match=entry):
        load_model(saved(tmp_path / "model.pth", content))


NOT_STATES: dict[str, Any] = {
    "nothing": None,
    "a list": [1, 2],
    "a tensor": torch.zeros(2),
    "a key that is a number": {1: torch.zeros(1)},
    "a sparse tensor": seeded_model(TINY).state_dict()
    | {"fpn.p6.weight": seeded_model(TINY).state_dict()["fpn.p6.weight"].to_sparse()},
}


@pytest.mark.parametrize("state", NOT_STATES.values(), ids=NOT_STATES)
def test_an_own_file_whose_weights_are_not_plain_tensors_is_refused(state: Any, tmp_path: Path) -> None:
    path = saved(tmp_path / "model.pth", own_content(state_dict=state))
    with pytest.raises(CheckpointError):
        load_model(path)


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
    assert message.startswith(f"{path} does not fit the model, 7 problems:")
    assert sorted(line.strip() for line in message.splitlines()[1:]) == [
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


# ---- damaged files


@pytest.mark.parametrize("share", [0.02, 0.5, 0.95, 0.9999])
def test_a_truncated_file_is_refused(share: float, tmp_path: Path) -> None:
    whole = saved(tmp_path / "whole.pth", mmdet_state_of(seeded_model(TINY))).read_bytes()
    path = tmp_path / "model.pth"
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(CheckpointError, match="truncated") as caught:
        load_model(path)
    assert str(path) in str(caught.value)


def zip_of(**files: str) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return stream.getvalue()


DAMAGED = {
    "empty": b"",
    "text": b"hello world\n",
    "a Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
    "HTML": b"<!DOCTYPE html><html></html>",
    "zeros": b"\0" * 1000,
    "a JPEG": b"\xff\xd8\xff\xe0\0\x10JFIF",
    "a zip file": zip_of(note="hello"),
    "an empty zip file": zip_of(),
    "the head of a zip file": b"PK\x03\x04",
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_a_file_that_is_no_checkpoint_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="truncated or of another format") as caught:
        load_model(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("content", [DAMAGED["HTML"], DAMAGED["a JPEG"], DAMAGED["zeros"]])
def test_no_message_advises_to_load_a_file_unsafely(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        load_model(path)
    assert "weights_only" not in str(caught.value)


def old_format() -> bytes:
    stream = io.BytesIO()
    torch.save({"state_dict": {"a": torch.zeros(2)}}, stream, _use_new_zipfile_serialization=False)
    return stream.getvalue()


@pytest.mark.parametrize(
    "content",
    [b".", b"\x80\x02.", b"\x80\x02K", b"\x80\x02J\x01", old_format()[:18]],
)
def test_a_damaged_file_of_the_old_format_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    path.write_bytes(content)
    with pytest.raises(CheckpointError):
        load_model(path)


@pytest.mark.parametrize("name", ["nothing.pth", "folder", "file/nothing.pth"])
def test_a_path_without_a_file_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        load_model(tmp_path / name)


# ---- files that want to run code


class Call:
    """Pickles as the call of a function, which may itself be the result of such a call."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.function = function
        self.args = args

    def __call__(self) -> None:
        """Pickle wants what is called to look as if it could be."""

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.function, self.args


def os_of_torch() -> Call:
    """The module `os`, from nothing but names that `weights_only` allows and `getattr`."""
    globals_of_torch_tensor = Call(getattr, Call(getattr, torch.Tensor, "backward"), "__globals__")
    return Call(getattr, Call(Call(getattr, globals_of_torch_tensor, "get"), "torch"), "os")


def history_buffer(*args: Any) -> Any:
    history = pytest.importorskip("mmengine.logging", reason="needs the class HistoryBuffer of mmengine")
    return Call(history.HistoryBuffer, *args)


PAYLOADS: dict[str, Callable[[str], Any]] = {
    "os.system": lambda command: Call(os.system, command),
    "subprocess.call": lambda command: Call(subprocess.call, ["/bin/sh", "-c", command]),
    "builtins.eval": lambda command: Call(builtins.eval, f"__import__('os').system({command!r})"),
    "builtins.exec": lambda command: Call(builtins.exec, f"import os; os.system({command!r})"),
    "getattr of an import": lambda command: Call(Call(getattr, Call(__import__, "os"), "system"), command),
    "getattr from allowed names": lambda command: Call(Call(getattr, os_of_torch(), "system"), command),
    "in a HistoryBuffer": lambda command: history_buffer([Call(os.system, command)], [1]),
    "in a numpy dtype": lambda command: Call(np.dtype, Call(os.system, command)),
}


@pytest.mark.parametrize("container", ["torch.save", "torch.save, old format", "pickle.dump"])
@pytest.mark.parametrize("payload", PAYLOADS.values(), ids=PAYLOADS)
def test_a_file_that_wants_to_run_code_is_refused_and_runs_nothing(
    payload: Callable[[str], Any], container: str, tmp_path: Path
) -> None:
    sentinel, path = tmp_path / "sentinel", tmp_path / "model.pth"
    command = f"touch {sentinel}"
    content = {"meta": {"epoch": payload(command)}, "state_dict": {"bbox_head.controller.weight": torch.zeros(1)}}
    if container == "pickle.dump":
        path.write_bytes(pickle.dumps(content, protocol=2))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=container == "torch.save")
    with pytest.raises(CheckpointError) as caught:
        load_model(path)
    assert str(path) in str(caught.value)
    assert not sentinel.exists()


@pytest.mark.parametrize("payload", PAYLOADS.values(), ids=PAYLOADS)
def test_plain_pickle_would_have_run_the_code(payload: Callable[[str], Any], tmp_path: Path) -> None:
    sentinel = tmp_path / "sentinel"
    # what the call gives is not what a HistoryBuffer or a dtype takes
    with suppress(TypeError, AssertionError):
        pickle.loads(pickle.dumps(payload(f"touch {sentinel}"), protocol=2))
    assert sentinel.exists()


@pytest.mark.parametrize(
    ("function", "name"),
    [(eval, "eval"), (np.load, "numpy.load"), (os.getcwd, "posix.getcwd")],
)
def test_the_refusal_names_the_object_and_the_safe_way_out(
    function: Callable[..., Any], name: str, tmp_path: Path
) -> None:
    path = saved(tmp_path / "model.pth", {"state_dict": {}, "meta": Call(function)})
    with pytest.raises(CheckpointError, match=f"{name} .*could run code; refused.*Save the weights alone"):
        load_model(path)


LOOKUPS: dict[str, Any] = {
    "an attribute": Call(getattr, torch.Tensor, "backward"),
    "an attribute of an attribute": Call(getattr, Call(getattr, torch.Tensor, "backward"), "__globals__"),
    "a class": Call(getattr, OrderedDict(), "__class__"),
}


@pytest.mark.parametrize("lookup", LOOKUPS.values(), ids=LOOKUPS)
def test_getattr_looks_nothing_up(lookup: Call, tmp_path: Path) -> None:
    content = load_checkpoint_file(saved(tmp_path / "model.pth", {"found": lookup, "weight": torch.ones(2)}))
    assert type(content["found"]).__mro__[1] is Inert
    assert vars(content["found"]) == {}
    assert torch.equal(content["weight"], torch.ones(2))


def test_safe_loading_leaves_no_permission_behind(tmp_path: Path) -> None:
    before = set(torch.serialization.get_safe_globals())
    path = saved(tmp_path / "model.pth", {"found": Call(getattr, torch.Tensor, "backward")})
    load_checkpoint_file(path)
    assert set(torch.serialization.get_safe_globals()) == before
    with pytest.raises(pickle.UnpicklingError, match="getattr"):
        torch.load(path, weights_only=True)


# ---- places that cannot be written


def contents(folder: Path) -> Mapping[str, bytes | None]:
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


@pytest.mark.parametrize(
    "name",
    ["folder", "file/model.pth", "file/new/model.pth"],
)
def test_saving_to_a_place_that_cannot_be_written_leaves_nothing(name: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("mine")
    before = contents(tmp_path)
    with pytest.raises(OutputError, match=str(tmp_path / name)):
        save_model(tmp_path / name, seeded_model(TINY), manifest_of(TINY))
    assert contents(tmp_path) == before


def test_a_full_disk_is_an_error_and_the_earlier_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    path.write_text("earlier")
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, limits[1]))
    try:
        with pytest.raises(OutputError, match=str(path)):
            save_model(path, seeded_model(TINY), manifest_of(TINY))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert contents(tmp_path) == {"model.pth": b"earlier"}
