"""A file where an output folder is to be: one line says what is there and what was expected."""

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from pathlib import Path

import pytest

from condinst_deploy.benchmarking.plots import check_plot
from condinst_deploy.errors import OutputError
from condinst_deploy.serving.batch.storage import LocalFolder
from condinst_deploy.support.atomic_folder import atomic_folder
from condinst_deploy.support.atomic_write import atomic_path, check_writable, only_writer
from condinst_deploy.support.folder_lock import locked_folder

Made = AbstractContextManager[object]


def checked(check: Callable[[Path], None], path: Path) -> Made:
    """A check, as a block that does nothing."""
    check(path)
    return nullcontext()


FOLDERS: list[Callable[[Path], Made]] = [
    locked_folder,
    lambda folder: atomic_folder(folder / "x"),
    lambda folder: LocalFolder(folder).locked(lambda line: None),
    lambda folder: nullcontext(list(LocalFolder(folder).files())),
    lambda folder: checked(check_writable, folder / "x.json"),
    lambda folder: checked(check_plot, folder / "x.png"),
    lambda folder: atomic_path(folder / "x.json"),
    lambda folder: only_writer(folder / "x.json"),
]
"""Everything that makes an output folder, or writes or checks a file in one."""


@pytest.mark.parametrize("made", FOLDERS)
@pytest.mark.parametrize("deeper", ["", "a", "a/b"])
def test_a_file_in_place_of_a_folder_or_of_one_above_it_is_named(
    made: Callable[[Path], Made], deeper: str, tmp_path: Path
) -> None:
    (file := tmp_path / "file").write_text("kept")
    with pytest.raises(OutputError) as caught, ExitStack() as stack:
        stack.enter_context(made(file / deeper))
    assert f"{file} is a file, not a folder); choose another place" in str(caught.value)
    assert file.read_text() == "kept"
    assert list(tmp_path.iterdir()) == [file]
