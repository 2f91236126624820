"""Folders that are there whole or not at all."""

import subprocess
import sys
from pathlib import Path

import pytest

from condinst_deploy.errors import OutputError
from condinst_deploy.support.atomic_folder import atomic_folder

KILLED = """
import os, sys
from pathlib import Path
from condinst_deploy.support.atomic_folder import atomic_folder
with atomic_folder(Path(sys.argv[1])) as draft:
    (draft / "file").touch()
    print("writing", flush=True)
    if sys.argv[2] == "dies":
        os._exit(9)
    sys.stdin.read()
"""


def start(folder: Path, end: str) -> "subprocess.Popen[bytes]":
    """A process that writes a folder, and dies or waits."""
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(folder), end], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"writing\n"
    return process


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_folder_has_its_name_when_it_is_whole(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "a" / "b") as draft:
        (draft / "file").write_text("x")
        assert not (tmp_path / "a" / "b").exists()
    assert names(tmp_path / "a") == ["b"]
    assert (tmp_path / "a" / "b" / "file").read_text() == "x"


def test_a_block_that_fails_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()

    def fail() -> None:
        with atomic_folder(tmp_path / "b") as draft:
            (draft / "file").touch()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert names(tmp_path) == ["b"]
    assert names(tmp_path / "b") == []


def test_what_is_there_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "link").symlink_to("nowhere")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    for path, reason in ((tmp_path, "not an empty folder"), (tmp_path / "link", "not an empty folder")):
        with pytest.raises(OutputError, match=reason), atomic_folder(path):
            pass
    for path in (Path(), Path("../empty")):
        with pytest.raises(OutputError, match="is the current folder, which cannot be replaced"), atomic_folder(path):
            pass
    assert names(tmp_path) == ["empty", "link"]


@pytest.mark.parametrize("name", ["x" * 255, "x" * 300, "\udcff" * 100])
def test_long_and_strange_names(name: str, tmp_path: Path) -> None:
    if len(name) > 255:
        with pytest.raises(OutputError, match="File name too long"), atomic_folder(tmp_path / name):
            pass
        return
    with atomic_folder(tmp_path / name):
        pass
    assert names(tmp_path) == [name]


def test_what_a_killed_run_left_is_removed_and_what_a_living_one_writes_is_not(tmp_path: Path) -> None:
    start(tmp_path / "out", "dies").communicate()
    (left,) = names(tmp_path)
    living = start(tmp_path / "out", "waits")
    others = names(tmp_path)
    assert left not in others
    (tmp_path / ".out.notes.partial").mkdir()  # of another program
    with atomic_folder(tmp_path / "out"):
        pass
    assert names(tmp_path) == sorted([*others, ".out.notes.partial", "out"])
    living.communicate()  # ends well: its folder takes the place of the empty one
    assert names(tmp_path) == [".out.notes.partial", "out"]
    assert names(tmp_path / "out") == ["file"]
