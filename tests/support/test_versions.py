"""Versions and digests."""

import hashlib
from pathlib import Path

import numpy as np

from condinst_deploy.support.digests import sha256_of, sha256_of_bytes, sha256_of_text
from condinst_deploy.support.versions import installed_versions, version_of


def test_versions_are_those_that_the_libraries_say_and_missing_ones_are_left_out() -> None:
    assert version_of("numpy") == np.__version__
    assert version_of("no-such-library") is None
    assert installed_versions(("no-such-library", "numpy")) == {"numpy": np.__version__}


def test_digests_of_a_file_of_its_bytes_and_of_its_text_are_the_same(tmp_path: Path) -> None:
    text = "a line\nof Größe"
    (tmp_path / "f").write_bytes(text.encode())
    expected = hashlib.sha256(text.encode()).hexdigest()
    assert sha256_of(tmp_path / "f") == sha256_of_bytes(text.encode()) == sha256_of_text(text) == expected


def test_a_file_name_that_is_not_utf8_has_a_digest() -> None:
    assert sha256_of_text("a\udcff") == hashlib.sha256(b"a\xff").hexdigest()
