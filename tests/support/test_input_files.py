"""Only ordinary files are read: a pipe would be waited for, and a device may have no end."""

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from condinst_deploy.support.input_files import NotAFileError, check_ordinary, read_file, read_text, real_path


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))


SPECIAL: dict[str, tuple[Callable[[Path], object], str]] = {
    "pipe": (os.mkfifo, "a pipe"),
    "socket": (make_socket, "a socket"),
    "device": (lambda path: path.symlink_to("/dev/zero"), "a device"),
    "folder": (Path.mkdir, "a folder"),
}


@pytest.mark.parametrize("kind", SPECIAL)
def test_what_is_no_ordinary_file_is_refused_by_its_kind(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # a socket's path is short
    make, words = SPECIAL[kind]
    make(Path("x"))
    for reads in (check_ordinary, read_file, read_text):
        with pytest.raises(NotAFileError, match=f"it is {words} and not an ordinary file") as refused:
            reads(Path("x"))
        assert str(refused.value) == refused.value.strerror
        assert refused.value.filename == "x"


def test_ordinary_files_are_read_also_through_links(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"\xef\xbb\xbfa\r\n\xc3\xa4")
    (tmp_path / "link").symlink_to("x")
    assert read_file(tmp_path / "link") == b"\xef\xbb\xbfa\r\n\xc3\xa4"
    assert read_text(tmp_path / "link", "utf-8-sig") == "a\r\nä"
    with pytest.raises(UnicodeDecodeError):
        read_text(tmp_path / "x", "ascii")


def test_a_link_to_itself_and_a_missing_file_are_errors_of_the_system(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(OSError, match="symbolic links"):
        read_file(tmp_path / "loop")
    assert real_path(tmp_path / "loop").parent == real_path(tmp_path)
    (tmp_path / "other").symlink_to("x")
    assert real_path(tmp_path / "other") == real_path(tmp_path / "x")
    with pytest.raises(FileNotFoundError):
        read_file(tmp_path / "none")
