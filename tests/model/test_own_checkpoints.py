"""The toolkit's own format: what it keeps, what it refuses, and places that cannot be written."""

import re
import resource
import signal
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from condinst_deploy.contract import Selection
from condinst_deploy.errors import CheckpointError, OutputError
from condinst_deploy.model import checkpoints
from condinst_deploy.model.checkpoints import LARGEST_UNSTORED, check_stored, load_model, save_model
from condinst_deploy.model.condinst import CondInst
from condinst_deploy.model.config import CondInstConfig
from tests.support.checkpoints import assert_same_outputs, assert_same_weights, own_content, saved
from tests.support.models import TINY, manifest_of, seeded_model

pytestmark = pytest.mark.usefixtures("one_thread")


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
    with pytest.raises(CheckpointError, match=r"have a prefix .*others have none, such as 'backbone\.odd'"):
        load_model(saved(tmp_path / "model.pth", own_content(state_dict=state)))


def test_saving_twice_gives_the_same_weights_and_replaces_the_file(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    save_model(path, seeded_model(TINY, seed=1), manifest_of(TINY))
    save_model(path, seeded_model(TINY), manifest_of(TINY))
    assert_same_weights(load_model(path).model, seeded_model(TINY))
    assert list(tmp_path.iterdir()) == [path]


WEIGHTS = seeded_model(TINY).state_dict()

SHARED: Any = [1]
for _ in range(9):
    SHARED = [SHARED] * 10  # a billion leaves when written out, a few hundred bytes in the file


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
        ({"config": {"depth": 18, "num_classes": SHARED}}, r"num_classes is \[.*\]; expected a whole number"),
        ({"config": {"depth": SHARED}}, r"depth is \[.*\]; expected a whole number"),
        ({"config": SHARED}, "expected a table of settings"),
        ({"config": {"tower_convs": 10**9}}, "tower_convs is 1000000000; expected a whole number from 1 to 64"),
        ({"config": {"base_width": 10**400}}, "base_width is a whole number of 1,329 bits"),
        ({"config": {"fpn_channels": 64.0}}, "fpn_channels is 64.0; expected a whole number"),
        ({"manifest": SHARED}, r"manifest is \[.*\]; expected text"),
        ({"manifest": "[" * 100_000}, "nested too deeply"),
        ({"manifest": '{"version":' + "1" * 5000 + "}"}, "version a whole number of 16,607 bits; this release reads"),
        ({"state_dict": {"a": SHARED}}, "unmapped: a"),
        ({"state_dict": {(1,) * 9: torch.zeros(1)}}, "expected a dictionary of tensors with their names"),
    ],
)
def test_an_own_file_with_unusable_settings_is_refused(changes: dict[str, Any], reason: str, tmp_path: Path) -> None:
    path = saved(tmp_path / "model.pth", own_content(**changes))
    with pytest.raises(CheckpointError, match=reason) as caught:
        load_model(path)
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 2000


def test_a_file_that_describes_a_large_network_is_refused_before_memory_is_taken_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[torch.device] = []

    class Recorded(CondInst):
        def __init__(self, config: CondInstConfig) -> None:
            built.append(torch.get_default_device())
            super().__init__(config)

    monkeypatch.setattr(checkpoints, "CondInst", Recorded)
    config = replace(TINY, base_width=1024)  # 64 GB
    path = saved(tmp_path / "model.pth", own_content(config=config.to_dict(), state_dict={}))
    with pytest.raises(CheckpointError, match=r"missing: backbone\.conv1\.weight"):
        load_model(path)
    assert built == [torch.device("meta")]


def test_tensors_that_repeat_one_number_do_not_make_a_large_model_of_a_small_file(tmp_path: Path) -> None:
    load_model(saved(tmp_path / "model.pth", own_content(state_dict=repeated(WEIGHTS))))  # small enough to be no harm
    config = replace(TINY, base_width=512)
    with torch.device("meta"):
        state = CondInst(config).state_dict()
    assert sum(value.nbytes for value in state.values()) > LARGEST_UNSTORED
    path = saved(tmp_path / "large.pth", own_content(config=config.to_dict(), state_dict=repeated(state)))
    assert path.stat().st_size < 1 << 20
    with pytest.raises(CheckpointError, match=r"holds 0\.0 GB of numbers for a model of"):
        load_model(path)


def test_weights_of_half_the_size_are_all_numbers_of_a_model(tmp_path: Path) -> None:
    check_stored(tmp_path, WEIGHTS, {key: value.half() for key, value in WEIGHTS.items()}, largest_unstored=0)
    with pytest.raises(CheckpointError, match="expected all of them"):
        check_stored(tmp_path, WEIGHTS, repeated(WEIGHTS), largest_unstored=0)


def repeated(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of the same shapes and types, of one stored number each."""
    return {key: torch.ones((), dtype=value.dtype, device="cpu").expand(value.shape) for key, value in state.items()}


@pytest.mark.parametrize("value", [1e300, -1e39])
def test_weights_that_the_model_cannot_hold_are_refused(value: float, tmp_path: Path) -> None:
    state = WEIGHTS | {
        "backbone.conv1.weight": torch.full_like(WEIGHTS["backbone.conv1.weight"], value, dtype=torch.float64)
    }
    path = saved(tmp_path / "model.pth", own_content(state_dict=state))
    with pytest.raises(
        CheckpointError, match=r"backbone\.conv1\.weight is torch\.float64 with numbers that torch\.float32"
    ):
        load_model(path)


WITHOUT_COMPARISONS = [
    torch.float8_e4m3fn,
    torch.float8_e4m3fnuz,
    torch.float8_e5m2,
    torch.float8_e5m2fnuz,
    torch.uint16,
]


@pytest.mark.parametrize("kind", WITHOUT_COMPARISONS, ids=str)
def test_weights_in_types_without_comparisons_are_taken_as_their_numbers(kind: torch.dtype, tmp_path: Path) -> None:
    variances = "backbone.bn1.running_var"
    stored = (4 * WEIGHTS[variances]).to(kind)
    loaded = load_model(saved(tmp_path / "model.pth", own_content(state_dict=WEIGHTS | {variances: stored})))
    assert torch.equal(loaded.model.state_dict()[variances], stored.float())


@pytest.mark.parametrize("kind", [torch.float4_e2m1fn_x2, torch.bits8, torch.complex64], ids=str)
def test_weights_that_are_no_numbers_are_refused_by_name(kind: torch.dtype, tmp_path: Path) -> None:
    name = "backbone.bn1.running_var"
    state = WEIGHTS | {name: torch.empty(WEIGHTS[name].shape, dtype=kind)}
    with pytest.raises(CheckpointError, match=rf"not plain numbers: {re.escape(name)} is torch\.strided {kind}"):
        load_model(saved(tmp_path / "model.pth", own_content(state_dict=state)))


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
