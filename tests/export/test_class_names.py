"""Lists of class names: one a line, as every editor writes lines."""

from pathlib import Path

import pytest

from condinst_deploy.errors import MissingFileError
from condinst_export.export_options import class_names_from


@pytest.mark.parametrize(
    ("content", "names"),
    [
        (b"\xef\xbb\xbfa\r\nb\r\nc", ("a", "b", "c")),
        (b"a\rb\r\r", ("a", "b")),
        (b"  a b \n\n\t\nc\n\n", ("a b", "c")),
        ("a\u2028b\nc\x0cd\x85e\n".encode(), ("a\u2028b", "c\x0cd\x85e")),  # none of these ends a line
        (b"", ()),
    ],
)
def test_a_name_is_a_line(content: bytes, names: tuple[str, ...], tmp_path: Path) -> None:
    path = tmp_path / "names.txt"
    path.write_bytes(content)
    assert class_names_from(path) == names


def test_a_list_that_does_not_exist_is_missing_and_not_wrong_usage(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"no list of class names at .*none\.txt; expected a text file with one"):
        class_names_from(tmp_path / "none.txt")
