"""Files that are there whole or not at all."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from condinst_deploy.errors import ConfigError, OutputError
from condinst_deploy.support.atomic_write import atomic_path, check_writable, only_writer, remove_leftovers, remove_own


def write(path: Path, content: str = "new") -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(content)


def write_and_raise(path: Path, error: BaseException) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text("half")
        raise error


def write_behind_a_link(path: Path, victim: Path) -> None:
    with atomic_path(path) as temporary:
        temporary.unlink()
        temporary.symlink_to(victim)


def write_and_end_at_once(path: Path) -> None:
    with atomic_path(path) as temporary:
        remove_own()
        assert not temporary.exists()


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


def test_block_that_writes_nothing_leaves_an_empty_file(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "x.txt"):
        pass
    assert (tmp_path / "x.txt").read_bytes() == b""


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


def test_a_folder_in_which_no_file_can_be_made_is_an_output_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(path: Path, *_: object) -> int:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(os, "open", refused)  # root may write everywhere
    with pytest.raises(OutputError, match=r"x\.txt cannot be written \(Permission denied\); choose another place"):
        write(tmp_path / "x.txt")


def test_error_of_another_file_keeps_its_own_name(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"missing\.png"), atomic_path(tmp_path / "x.txt"):
        (tmp_path / "missing.png").read_bytes()
    assert list(tmp_path.iterdir()) == []


def test_names_of_temporary_files_cannot_be_guessed(tmp_path: Path) -> None:
    names = set()
    for _ in range(20):
        with atomic_path(tmp_path / "x.txt") as temporary:
            names.add(temporary.name)
    assert len(names) == 20
    assert all(str(os.getpid()) not in name.split(".") for name in names)


def test_a_link_in_the_place_of_the_temporary_file_is_noticed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    with pytest.raises(OutputError, match="was removed or replaced by another program"):
        write_behind_a_link(tmp_path / "x", victim)
    assert victim.read_text() == "precious"
    assert not (tmp_path / "x").exists()


def test_a_link_to_a_file_is_replaced_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("precious")
    (tmp_path / "x").symlink_to(tmp_path / "victim")
    write(tmp_path / "x")
    assert (tmp_path / "victim").read_text() == "precious"
    assert not (tmp_path / "x").is_symlink()


def test_a_device_is_not_replaced() -> None:
    with pytest.raises(OutputError, match="is a device or a pipe; expected the name of an ordinary file"):
        write(Path("/dev/null"))
    assert Path("/dev/null").is_char_device()


def test_the_content_is_on_the_disk_before_the_file_gets_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def synced(descriptor: int) -> None:
        events.append("folder" if Path(f"/proc/self/fd/{descriptor}").is_dir() else "file")
        fsync(descriptor)

    def replaced(self: Path, target: Path) -> Path:
        events.append("name")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", replaced)
    write(tmp_path / "x")
    assert events == ["file", "name", "folder"]


def test_a_disk_that_fails_at_the_end_leaves_the_older_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x").write_text("old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match="No space left"):
        write(tmp_path / "x")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("x", "old")]


def test_the_usual_permissions_are_given(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write(tmp_path / "x")
    finally:
        os.umask(before)
    assert (tmp_path / "x").stat().st_mode & 0o777 == 0o640


KILLED = """
import os, signal, sys
from pathlib import Path
from condinst_deploy.support.atomic_write import atomic_path
with atomic_path(Path(sys.argv[1]) / "x.txt") as temporary:
    temporary.write_text("half")
    print(temporary, flush=True)
    sys.stdin.read()
"""


def test_the_next_run_removes_what_a_killed_one_left_and_nothing_else(tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    left = Path(process.stdout.readline().strip())
    others = [tmp_path / name for name in (".x.partial", "x.partial", f".{'0' * 16}.partial", ".x.0123.partial")]
    for path in others:
        path.write_text("mine")
    link = tmp_path / f".x.{'1' * 16}.partial"
    link.symlink_to(others[0])
    write(tmp_path / "y.txt")
    assert left.exists()  # its process lives
    process.send_signal(signal.SIGKILL)
    process.communicate()
    remove_leftovers(tmp_path)
    assert not left.exists()
    assert all(path.exists() for path in (*others, link))


def test_a_process_that_ends_at_once_removes_its_own(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="was removed or replaced"):
        write_and_end_at_once(tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_found_before_the_work(tmp_path: Path) -> None:
    check_writable(tmp_path / "a" / "b" / "x")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    for path in (tmp_path / "file" / "x", tmp_path, tmp_path / ("x" * 300), Path("/proc/x"), Path("a\0b")):
        with pytest.raises(OutputError):
            check_writable(path)


HOLDS = "import sys, time\nfrom pathlib import Path\nfrom condinst_deploy.support.atomic_write import only_writer\n"
HOLDS += "with only_writer(Path(sys.argv[1])):\n    print('ready', flush=True)\n    time.sleep(100)\n"


def test_one_run_at_a_time_writes_a_file(tmp_path: Path) -> None:
    path = tmp_path / "new" / "model [1].onnx"
    process = subprocess.Popen([sys.executable, "-c", HOLDS, str(path)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    with (
        pytest.raises(ConfigError, match=r"another run is writing .*model \[1\]\.onnx; wait for it"),
        only_writer(path),
    ):
        pass
    with only_writer(path.with_name("other.onnx")):  # another file of the folder
        pass
    process.kill()
    process.communicate()
    with only_writer(path), atomic_path(path) as temporary:  # what the killed run left does not matter
        temporary.write_text("new")
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]
