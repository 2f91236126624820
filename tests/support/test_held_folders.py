"""A folder that is removed, renamed or replaced under a running command: an error, no second folder, no leftovers."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from condinst_deploy.errors import OutputError
from condinst_deploy.support.atomic_write import atomic_path
from condinst_deploy.support.folder_lock import locked_folder
from condinst_deploy.support.held_folders import check_held


def removed(folder: Path) -> None:
    shutil.rmtree(folder)


def renamed(folder: Path) -> None:
    folder.rename(folder.with_name("moved"))


def replaced_by_a_folder(folder: Path) -> None:
    renamed(folder)
    folder.mkdir()


def replaced_by_a_file(folder: Path) -> None:
    renamed(folder)
    folder.touch()


def replaced_by_a_link(folder: Path) -> None:
    renamed(folder)
    folder.with_name("other").mkdir()
    folder.symlink_to("other")


CHANGES = (removed, renamed, replaced_by_a_folder, replaced_by_a_file, replaced_by_a_link)
ERROR = "run was removed, renamed or replaced while results were written into it"


def write_around(path: Path, change: Callable[[Path], None], folder: Path) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text("half")
        change(folder)


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", ["x.txt", "below/x.txt"])
def test_the_next_file_is_an_error_and_makes_no_folder(
    name: str, change: Callable[[Path], None], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    with locked_folder(folder):
        change(folder)
        with pytest.raises(OutputError, match=ERROR), atomic_path(folder / name):
            pytest.fail("the file is written into another folder")
    assert not list(tmp_path.rglob("x.txt"))
    assert folder.is_dir() == (change in (replaced_by_a_folder, replaced_by_a_link))


@pytest.mark.parametrize("change", CHANGES)
def test_the_file_that_is_being_written_is_an_error_and_leaves_nothing(
    change: Callable[[Path], None], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    with locked_folder(folder), pytest.raises(OutputError, match=ERROR):
        write_around(folder / "x.txt", change, folder)
    assert not list(tmp_path.rglob("*x.txt*"))


@pytest.mark.parametrize("change", [renamed, replaced_by_a_folder])
def test_a_temporary_file_is_removed_from_a_folder_that_nobody_holds(
    change: Callable[[Path], None], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    with pytest.raises(OutputError, match="was removed or replaced by another program"):
        write_around(folder / "x.txt", change, folder)
    assert not list(tmp_path.rglob("*x.txt*"))


def test_other_folders_and_earlier_runs_do_not_matter(tmp_path: Path) -> None:
    with locked_folder(tmp_path / "run"):
        removed(tmp_path / "run")
        check_held(tmp_path / "run of another day" / "x")
        check_held(tmp_path / "x")
    check_held(tmp_path / "run" / "x")


def test_a_folder_behind_a_link_is_the_same_folder(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "run").symlink_to("disk")
    with locked_folder(tmp_path / "run"):
        with atomic_path(tmp_path / "run" / "x.txt") as temporary:
            temporary.write_text("new")
        (tmp_path / "run").unlink()
        (tmp_path / "run").symlink_to(tmp_path)
        with pytest.raises(OutputError, match=ERROR):
            check_held(tmp_path / "run" / "y.txt")
    assert (tmp_path / "disk" / "x.txt").read_text() == "new"


def interrupt(action: Callable[[Path], object], folder: Path) -> None:
    action(folder)
    raise KeyboardInterrupt


@pytest.mark.parametrize("there", [False, True])
@pytest.mark.parametrize("used", [False, True])
def test_a_new_folder_that_was_not_used_is_removed_after_an_error(there: bool, used: bool, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    if there:
        folder.mkdir()
    with pytest.raises(KeyboardInterrupt), locked_folder(folder):
        interrupt(lambda folder: (folder / "x.txt").write_text("x") if used else None, folder)
    assert folder.is_dir() == (there or used)


def test_a_new_folder_that_was_not_used_is_removed_where_nothing_failed(tmp_path: Path) -> None:
    with locked_folder(tmp_path / "run"):
        pass
    assert not (tmp_path / "run").exists()


def test_empty_folders_above_it_are_removed_if_the_block_made_them(tmp_path: Path) -> None:
    there = tmp_path / "there"
    there.mkdir()
    with locked_folder(there / "made" / "run"):
        pass
    assert [path.name for path in tmp_path.rglob("*")] == ["there"]
    with locked_folder(there / "made" / "run"):
        (there / "made" / "of another run").write_text("")
    assert sorted(path.name for path in there.rglob("*")) == ["made", "of another run"]


def test_an_empty_folder_of_the_same_name_is_not_removed(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt), locked_folder(folder):
        interrupt(replaced_by_a_folder, folder)
    assert folder.is_dir()
