from pathlib import Path
from typing import Any

import pytest

from condinst_deploy.errors import ConfigError, DataError
from condinst_deploy.serving.batch.inputs import open_input
from condinst_deploy.serving.batch.parquet_inputs import ImageSource, sources_of_rows, sources_of_table
from condinst_deploy.serving.batch.shards import RowSpan

pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
pq = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")


def written(path: Path, columns: dict[str, Any], **options: Any) -> str:
    pq.write_table(pa.table(columns), path, **options)
    return str(path)


@pytest.mark.parametrize("group", [1, 7, 100, 1000])
def test_any_range_of_rows_is_read(tmp_path: Path, group: int) -> None:
    contents = [bytes([i]) for i in range(100)]
    name = written(tmp_path / "a.parquet", {"bytes": contents, "id": list(range(100))}, row_group_size=group)
    for first, count in ((0, 100), (0, 1), (99, 1), (31, 35), (64, 32)):
        expected = [ImageSource(str(i), contents[i]) for i in range(first, first + count)]
        assert list(sources_of_rows(name, first, count, None)) == expected


@pytest.mark.parametrize(
    ("columns", "column", "expected"),
    [
        ({"image": [b"1"], "path": ["a.jpg"]}, None, ("a.jpg", b"1")),
        ({"path": ["a.jpg"], "width": [3]}, None, ("a.jpg", None)),
        ({"where": ["a.jpg"], "path": ["b.jpg"]}, "where", ("a.jpg", None)),
        ({"jpg": [b"1"]}, None, ("row 0", b"1")),
        ({"image": [{"bytes": b"1", "path": "a.jpg"}]}, None, ("a.jpg", b"1")),
        ({"image": [{"bytes": None, "path": "a.jpg"}, {"bytes": b"", "path": None}]}, None, ("a.jpg", None)),
        ({"image": [{"bytes": b"1", "path": None}], "name": ["x"]}, None, ("x", b"1")),
        (
            {"image": pa.array([{"bytes": None, "path": 7}], pa.struct({"bytes": pa.binary(), "path": pa.int64()}))},
            None,
            ("7", b""),
        ),
        ({"data": pa.array([b"1"], pa.large_binary()), "id": [7]}, "data", ("7", b"1")),
        ({"image": pa.array([None], pa.binary()), "id": [7]}, None, ("7", b"")),
        ({"image": [3], "url": ["s3://b/a.jpg"]}, None, ("s3://b/a.jpg", None)),
        ({"path": pa.array(["a.jpg"]).dictionary_encode()}, None, ("a.jpg", None)),
        ({"path": pa.array(["a.jpg"], pa.string_view())}, None, ("a.jpg", None)),
        ({"image": pa.array([b"1"]).dictionary_encode()}, None, ("row 0", b"1")),
        ({"image": pa.array([b"1"], pa.binary_view())}, None, ("row 0", b"1")),
        ({"image": pa.array([b"1"], pa.binary(1))}, None, ("row 0", b"1")),
    ],
)
def test_columns_of_contents_of_paths_and_of_both(columns: Any, column: str | None, expected: Any) -> None:
    _, sources = sources_of_table(pa.table(columns), column, "the table")
    assert sources[0] == ImageSource(*expected)


@pytest.mark.parametrize(
    ("columns", "column", "reason"),
    [
        (
            {"a": [1], "b": [2]},
            None,
            r"has no column of images: its columns are a \(int64\), b \(int64\); name one of contents",
        ),
        ({"image": [{"bytes": 5, "path": "x"}]}, None, r"has no column of images: its columns are image \(struct<"),
        ({"image": [{"bytes": "text"}]}, "image", "has no column of images"),
        ({"image": [{"bytes": {"bytes": b"1"}}]}, "image", "has no column of images"),
        ({"image": [[b"1"]]}, "image", "has no column of images"),
        ({f"column{i}": [1] for i in range(50)}, None, r"column19 \(int64\) and 30 more; name one"),
        ({"path": ["x"]}, "image", "has no column 'image'; its columns are path"),
        ({"image": [1.5]}, "image", "has no column of images"),
    ],
)
def test_a_table_without_images_is_refused(columns: Any, column: str | None, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        sources_of_table(pa.table(columns), column, "the table")


def test_of_two_columns_of_one_name_none_is_taken() -> None:
    table = pa.table([pa.array([b"1"]), pa.array([b"2"]), pa.array([b"3"])], names=["image", "image", "other"])
    with pytest.raises(ConfigError, match="the table has 2 columns 'image'; name another one with --column"):
        sources_of_table(table, None, "the table")
    assert sources_of_table(table, "other", "the table")[1] == [ImageSource("row 0", b"3")]


def test_names_that_are_no_utf8_are_names_of_files() -> None:
    names = pa.array([b"caf\xe9.jpg", None, b"b.jpg"], pa.binary()).view(pa.string())  # as other writers store them
    pairs = pa.StructArray.from_arrays([pa.array([None, b"1", None], pa.binary()), names], names=["bytes", "path"])
    columns = [{"path": names}, {"path": names.dictionary_encode()}, {"image": pairs}]
    for column in columns:
        _, sources = sources_of_table(pa.table(column), None, "the table")
        assert [source.name for source in sources] == ["caf\udce9.jpg", "row 1", "b.jpg"]


def test_files_of_a_folder_are_one_input_and_empty_ones_do_not_matter(tmp_path: Path) -> None:
    b, empty, a = (
        written(tmp_path / name, {"path": [f"{i}.jpg" for i in range(count)]})
        for name, count in (("b.parquet", 3), ("c.parquet", 0), ("a.pq", 2))
    )
    source = open_input(str(tmp_path))
    assert source.kind == "parquet"
    assert source.fingerprint().images == 5
    assert list(source.spans()) == [RowSpan(a, 0, 2), RowSpan(b, 0, 3)]
    before = source.fingerprint()
    Path(empty).unlink()
    assert open_input(str(tmp_path)).fingerprint() != before


@pytest.mark.parametrize("content", [b"", b"PAR1", b"x" * 100])
def test_a_damaged_file_is_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.parquet"
    path.write_bytes(content)
    with pytest.raises(DataError, match="cannot be read as Parquet") as reported:
        open_input(str(path)).fingerprint()
    assert "\n" not in str(reported.value)


@pytest.mark.parametrize(("rows", "shown"), [(20, "20"), (30, "30"), (-1, "-1")])
def test_a_footer_whose_number_of_rows_is_false_is_one_line(rows: int, shown: str, tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    written(path, {"bytes": [bytes([i]) for i in range(25)]}, row_group_size=10)
    content = path.read_bytes()
    # in Thrift, a number (twice, less one if negative) and then a list, which is that of the row groups
    before, after = (bytes([0x16, 2 * n if n >= 0 else -2 * n - 1, 0x19]) for n in (25, rows))
    assert content.count(before) == 1
    path.write_bytes(content.replace(before, after))
    assert pq.ParquetFile(path).metadata.num_rows == rows
    with pytest.raises(DataError, match=f"is damaged: its footer says {shown} rows, and its row groups have 25"):
        open_input(str(path)).fingerprint()


def damaged_group(folder: Path, group: int) -> str:
    """A file of 40 rows in four row groups, of which one has zeros in place of its first page."""
    path = folder / "damaged.parquet"
    columns = {"bytes": [bytes([i]) * 400 for i in range(40)], "id": list(range(40))}
    name = written(path, columns, row_group_size=10, compression="none", use_dictionary=False)
    start = pq.ParquetFile(name).metadata.row_group(group).column(0).data_page_offset
    content = path.read_bytes()
    path.write_bytes(content[:start] + bytes(1000) + content[start + 1000 :])
    return name


def test_rows_of_a_damaged_row_group_have_a_reason_and_the_others_are_read(tmp_path: Path) -> None:
    name = damaged_group(tmp_path, 1)
    sources = list(sources_of_rows(name, 5, 30, None))
    assert [source.content for source in sources[:5] + sources[15:]] == [
        bytes([i]) * 400 for i in (*range(5, 10), *range(20, 35))
    ]
    for row, source in enumerate(sources[5:15], start=10):
        assert (source.name, source.content) == (f"{name}#{row}", None)
        assert (source.damage or "").startswith("the row cannot be read (")


def test_a_row_group_that_ends_early_is_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = written(tmp_path / "a.parquet", {"bytes": [bytes([i]) for i in range(64)]})
    read = pq.ParquetFile.iter_batches
    monkeypatch.setattr(pq.ParquetFile, "iter_batches", lambda *a, **k: list(read(*a, **k))[:1])
    sources = list(sources_of_rows(name, 0, 64, None))
    assert [source.damage is not None for source in sources] == [False] * 32 + [True] * 32
    assert "fewer rows than the file's footer says" in (sources[-1].damage or "")


def test_a_storage_that_fails_damages_nothing(tmp_path: Path) -> None:
    """Rows whose bytes cannot be read are read again later."""
    name = damaged_group(tmp_path, 1)
    sources = sources_of_rows(name, 5, 30, None)
    assert next(sources).damage is None
    Path(name).unlink()
    with pytest.raises(DataError, match=r"cannot be read as Parquet \(.*No such file"):
        list(sources)


def test_relative_paths_start_at_the_folder_of_the_file(tmp_path: Path) -> None:
    paths = ["a.jpg", "/b.jpg", "s3://bucket/c.jpg", "file:///d.jpg"]
    name = written(tmp_path / "a.parquet", {"path": paths})
    found = [source.name for source in sources_of_rows(name, 0, 4, None)]
    assert found == [f"{tmp_path}/a.jpg", "/b.jpg", "s3://bucket/c.jpg", "/d.jpg"]
    name = written(tmp_path / "b.parquet", {"image": [{"bytes": b"1", "path": "a.jpg"}]})
    assert next(sources_of_rows(name, 0, 1, None)).name == "a.jpg"  # a name, for there is a content
