"""Copies of a file under other names."""

from dataclasses import replace
from pathlib import Path

import pytest

from condinst_deploy.data import equal_files as equal_files_module
from condinst_deploy.data.equal_files import FIRST_BLOCK, equal_files
from condinst_deploy.imaging.image_sizes import headers_of
from condinst_deploy.support.digests import sha256_of


def test_files_of_equal_size_are_read_only_as_far_as_they_are_equal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = bytes(FIRST_BLOCK)
    contents = {
        "a": content + b"end",
        "b": content + b"END",
        "c": b"x" + content + b"en",
        "d": content + b"end",
        "e": b"",
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    paths = [tmp_path / name for name in contents]
    whole: list[str] = []

    def read(path: Path) -> str:
        whole.append(path.name)
        return sha256_of(path)

    monkeypatch.setattr(equal_files_module, "sha256_of", read)
    headers = [replace(header, problem="") for header in headers_of(paths)]
    assert equal_files(paths, headers) == [[0, 3]]
    assert sorted(whole) == ["a", "b", "d"]


def test_copies_of_a_file_that_is_no_image_are_problems_of_their_own(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("a.jpg", "b.jpg", "c.jpg", "d.jpg")]
    for path, content in zip(paths, (b"", b"", b"torn", b"torn"), strict=True):
        path.write_bytes(content)
    assert equal_files(paths, list(headers_of(paths))) == []
