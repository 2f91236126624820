"""Damaged files and files that want to run code are refused, and nothing of them runs."""

import builtins
import io
import os
import pickle
import subprocess
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from condinst_deploy.errors import CheckpointError, ConfigError
from condinst_deploy.model.checkpoints import load_model
from condinst_deploy.model.safe_load import Inert, load_checkpoint_file
from tests.support.checkpoints import saved
from tests.support.mmdet_names import mmdet_state_of
from tests.support.models import TINY, seeded_model

pytestmark = pytest.mark.usefixtures("one_thread")


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


def test_a_zip_file_that_inflates_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    stored = saved(tmp_path / "stored.pth", {"state_dict": {"weight": torch.zeros(1 << 20)}})
    with zipfile.ZipFile(stored) as archive, zipfile.ZipFile(tmp_path / "m.pth", "w", zipfile.ZIP_DEFLATED) as packed:
        for entry in archive.infolist():
            packed.writestr(entry.filename, archive.read(entry))
    assert (tmp_path / "m.pth").stat().st_size < 1 << 16
    with pytest.raises(CheckpointError, match=r"would take 4,\d{3},\d{3} when unpacked; expected"):
        load_checkpoint_file(tmp_path / "m.pth")
    assert load_checkpoint_file(stored)["state_dict"]["weight"].shape == (1 << 20,)


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
    refusals = r"truncated or of another format|by its content; expected a|is cut off"
    with pytest.raises(CheckpointError, match=refusals) as caught:
        load_model(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("is_zip", [True, False])
@pytest.mark.parametrize("kept", [100, 5_000, 20_000, -1])
def test_a_file_that_is_cut_off_is_refused_in_words_of_our_own(kept: int, is_zip: bool, tmp_path: Path) -> None:
    whole, path = tmp_path / "whole.pth", tmp_path / "model.pth"
    values = {"state_dict": {"a": torch.zeros(10_000), "b": torch.ones(3)}}
    torch.save(values, whole, _use_new_zipfile_serialization=is_zip)
    path.write_bytes(content := whole.read_bytes()[:kept])
    with pytest.raises(CheckpointError) as caught:
        load_model(path)
    assert str(caught.value) == (
        f"{path} is cut off at {len(content):,} bytes, or not a checkpoint; fetch or copy it again"
    )


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


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("nothing.pth", CheckpointError, "no checkpoint at"),
        ("folder", ConfigError, "folder is a folder; expected a checkpoint"),
        ("file/nothing.pth", CheckpointError, "no checkpoint at"),
    ],
)
def test_a_path_without_a_file_is_refused(name: str, error: type[Exception], message: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(error, match=message):
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


@pytest.mark.parametrize("protocol", [0, 1, 4])
def test_a_checkpoint_of_another_pickle_protocol_is_named_as_such(protocol: int, tmp_path: Path) -> None:
    torch.save({"state_dict": {"a": torch.zeros(2)}}, tmp_path / "a.pth", pickle_protocol=protocol)
    with pytest.raises(CheckpointError, match=r"fetch it again, or write it again by torch\.save.* protocol than 2"):
        load_checkpoint_file(tmp_path / "a.pth")
