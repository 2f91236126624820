"""Files that are there whole or not at all."""

import errno
import os
from pathlib import Path

import pytest

from condinst_deploy.errors import OutputError
from condinst_deploy.support.atomic_write import atomic_path


def write(path: Path, content: str = "new") -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(content)


def write_and_raise(path: Path, error: BaseException) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text("half")
        raise error


def test_file_is_there_after_the_block_and_not_before(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "x.txt") as temporary:
        temporary.write_text("new")
        assert not (tmp_path / "x.txt").exists()
        assert temporary.parent == tmp_path
    assert (tmp_path / "x.txt").read_text() == "new"
    assert list(tmp_path.iterdir()) == [tmp_path / "x.txt"]


def test_missing_folders_are_made(tmp_path: Path) -> None:
    write(tmp_path / "a" / "b" / "x.txt")
    assert (tmp_path / "a" / "b" / "x.txt").read_text() == "new"


def test_name_without_a_folder_is_in_the_current_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(Path("x.txt"))
    assert (tmp_path / "x.txt").read_text() == "new"


def test_older_file_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("old and longer")
    write(tmp_path / "x.txt")
    assert (tmp_path / "x.txt").read_text() == "new"


@pytest.mark.parametrize("error", [ValueError, OutputError, KeyboardInterrupt, GeneratorExit])
def test_older_file_stays_when_the_block_raises(error: type[BaseException], tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("old")
    with pytest.raises(error):
        write_and_raise(tmp_path / "x.txt", error())
    assert (tmp_path / "x.txt").read_text() == "old"
    assert list(tmp_path.iterdir()) == [tmp_path / "x.txt"]


def test_nothing_appears_when_the_block_raises(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="why"):
        write_and_raise(tmp_path / "x.txt", ValueError("why"))
    assert list(tmp_path.iterdir()) == []


def test_full_disk_is_an_output_error_that_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("old")
    with pytest.raises(OutputError, match=r"x\.txt cannot be written \(No space left on device\); choose another"):
        write_and_raise(tmp_path / "x.txt", OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    assert (tmp_path / "x.txt").read_text() == "old"
    assert list(tmp_path.iterdir()) == [tmp_path / "x.txt"]


def test_block_that_writes_nothing_is_an_output_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"x\.txt cannot be written"), atomic_path(tmp_path / "x.txt"):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("below", ["x.txt", "deeper/x.txt", "deeper/still/x.txt"])
def test_file_in_place_of_a_folder_is_an_output_error(below: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    with pytest.raises(OutputError, match=r"x\.txt cannot be written"):
        write(tmp_path / "file" / below)
    assert (tmp_path / "file").read_text() == "old"


def test_name_that_is_too_long_is_an_output_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"cannot be written \(File name too long\)"):
        write(tmp_path / ("x" * 300))
    assert list(tmp_path.iterdir()) == []


def test_longest_name_of_the_file_system_can_be_written(tmp_path: Path) -> None:
    name = "x" * os.pathconf(tmp_path, "PC_NAME_MAX")
    write(tmp_path / name)
    assert (tmp_path / name).read_text() == "new"


@pytest.mark.parametrize("filled", [False, True])
def test_folder_is_not_replaced(filled: bool, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    if filled:
        (tmp_path / "folder" / "x.txt").write_text("old")
    with pytest.raises(OutputError, match=r"folder is a folder; expected the name of a file to write"):
        write(tmp_path / "folder")
    assert (tmp_path / "folder").is_dir()
    assert list(tmp_path.iterdir()) == [tmp_path / "folder"]


@pytest.mark.parametrize("name", [".", "/"])
def test_path_without_a_name_is_an_output_error(name: str) -> None:
    with pytest.raises(OutputError, match="is a folder; expected the name of a file to write"):
        write(Path(name))


def test_error_of_another_file_keeps_its_own_name(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"missing\.png"), atomic_path(tmp_path / "x.txt"):
        (tmp_path / "missing.png").read_bytes()
    assert list(tmp_path.iterdir()) == []
