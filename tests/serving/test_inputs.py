import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from condinst_deploy.errors import CondInstError, ConfigError, DataError
from condinst_deploy.serving.batch.inputs import LONGEST_LINE, BatchInput, open_input
from condinst_deploy.serving.batch.shards import PathSpan, shards_of
from condinst_deploy.support.remote_files import read_image


def paths_of(source: BatchInput) -> list[str]:
    spans = list(source.spans())
    assert all(isinstance(span, PathSpan) for span in spans)
    return [path for span in spans if isinstance(span, PathSpan) for path in span.paths]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    folder = tmp_path / "tree"
    for name in ("b.jpg", "a.PNG", "sub/c.jpeg", "notes.md", "sub/deep/d.webp"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"content")
    return folder


@pytest.fixture
def memory() -> Iterator[Any]:
    """fsspec's file system in memory, empty before and after."""
    filesystem = fsspec.filesystem("memory")
    filesystem.store.clear()
    yield filesystem
    filesystem.store.clear()


def test_a_folder_is_taken_with_its_subfolders_in_sorted_order(tree: Path) -> None:
    names = ["a.PNG", "b.jpg", "sub/c.jpeg", "sub/deep/d.webp"]
    for text in (str(tree), f"file://{tree}"):
        source = open_input(text)
        assert (source.kind, paths_of(source)) == ("folder", [str(tree / name) for name in names])
        assert source.fingerprint().images == 4


def test_a_pattern_takes_the_images_that_match(tree: Path) -> None:
    source = open_input(f"{tree}/**/*.[jw]*")
    assert source.kind == "pattern"
    assert paths_of(source) == [str(tree / name) for name in ("b.jpg", "sub/c.jpeg", "sub/deep/d.webp")]


def test_a_folder_whose_name_has_signs_of_patterns_is_a_folder(tree: Path) -> None:
    odd = tree.with_name("tree[1]*")
    tree.rename(odd)
    source = open_input(str(odd))
    assert (source.kind, source.fingerprint().images) == ("folder", 4)


def test_links_that_lead_nowhere_are_input_and_notes_of_macos_are_not(tree: Path) -> None:
    (tree / "z.jpg").symlink_to(tree / "gone.jpg")
    (tree / "._b.jpg").write_bytes(b"note")
    assert [Path(path).name for path in paths_of(open_input(str(tree)))] == [
        "a.PNG",
        "b.jpg",
        "c.jpeg",
        "d.webp",
        "z.jpg",
    ]


def test_the_output_is_no_input(tree: Path, memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    before = paths_of(open_input(str(tree)))
    (tree / "sub" / "part-00000000.parquet").touch()
    assert paths_of(open_input(str(tree), str(tree / "sub"))) == before
    assert paths_of(open_input(f"{tree}/**/*", f"file://{tree}/sub/")) == before
    monkeypatch.chdir(tree.parent)
    assert len(paths_of(open_input("tree", "tree/sub"))) == 4
    with pytest.raises(ConfigError, match="holds images and Parquet files"):
        open_input("tree", "tree/other")
    for name in ("/bucket/b.jpg", "/bucket/out/part-00000000.parquet"):
        memory.pipe_file(name, b"1")
    assert paths_of(open_input("memory://bucket", "memory://bucket/out/")) == ["memory:///bucket/b.jpg"]


def test_the_input_may_lie_in_the_output(tree: Path, memory: Any) -> None:
    (tree / "part-00000000.parquet").touch()
    (tree / "sub" / "part-1.jpg").touch()
    assert len(paths_of(open_input(str(tree / "sub"), str(tree)))) == 3
    assert len(paths_of(open_input(f"{tree}/*", str(tree)))) == 2
    for name in ("/bucket/b.jpg", "/bucket/part-00000000.parquet"):
        memory.pipe_file(name, b"1")
    assert paths_of(open_input("memory://bucket/*", "memory://bucket")) == ["memory:///bucket/b.jpg"]


def test_a_byte_order_mark_is_no_part_of_the_first_path(tree: Path, memory: Any) -> None:
    (tree / "list.txt").write_text("b.jpg\r\nsub/c.jpeg\r\n", encoding="utf-8-sig")
    assert paths_of(open_input(str(tree / "list.txt"))) == [f"{tree}/b.jpg", f"{tree}/sub/c.jpeg"]
    memory.pipe_file("/bucket/list.txt", "b.jpg\n".encode("utf-8-sig"))
    assert paths_of(open_input("memory://bucket/list.txt")) == ["memory://bucket/b.jpg"]


def test_a_list_keeps_its_order_and_starts_at_its_folder(tree: Path) -> None:
    path = tree / "images.txt"
    lines = [
        "sub/c.jpeg\r",
        "",
        "  ",
        "/elsewhere/x.jpg",
        "s3://bucket/y.jpg",
        "b.jpg",
        "b.jpg",
        "file:///z.jpg",
        " a b",
    ]
    path.write_bytes("\n".join(lines).encode() + b"\ncaf\xe9.jpg")
    source = open_input(str(path))
    first = [f"{tree}/sub/c.jpeg", "/elsewhere/x.jpg", "s3://bucket/y.jpg", f"{tree}/b.jpg", f"{tree}/b.jpg"]
    assert source.kind == "list"
    assert paths_of(source) == [*first, "/z.jpg", f"{tree}/ a b", f"{tree}/caf\udce9.jpg"]
    assert source.fingerprint().images == 8


def test_urls_are_listed_sorted_and_lists_behind_urls_start_at_their_folder(memory: Any) -> None:
    for name in ("/bucket/b.jpg", "/bucket/sub/a.png", "/bucket/x.md"):
        memory.pipe_file(name, b"1")
    memory.pipe_file("/bucket/list.txt", b"sub/a.png\nmemory://other/c.jpg\n")
    assert paths_of(open_input("memory://bucket")) == ["memory:///bucket/b.jpg", "memory:///bucket/sub/a.png"]
    assert paths_of(open_input("memory://bucket/*.jpg")) == ["memory:///bucket/b.jpg"]
    assert paths_of(open_input("memory://bucket/list.txt")) == ["memory://bucket/sub/a.png", "memory://other/c.jpg"]
    assert paths_of(open_input("memory://bucket/b.jpg")) == ["memory://bucket/b.jpg"]


def test_the_fingerprint_tells_order_names_and_files_apart(tree: Path) -> None:
    before = open_input(str(tree)).fingerprint()
    assert open_input(str(tree)).fingerprint() == before
    (tree / "b.jpg").write_bytes(b"another")
    changed = open_input(str(tree)).fingerprint()
    (tree / "e.jpg").write_bytes(b"content")
    assert len({before, changed, open_input(str(tree)).fingerprint()}) == 3
    (tree / "x.txt").write_text("a.jpg\nb.jpg\n")
    (tree / "y.txt").write_text("b.jpg\na.jpg\n")
    assert open_input(str(tree / "x.txt")).fingerprint() != open_input(str(tree / "y.txt")).fingerprint()


def test_names_behind_urls_may_have_signs_of_patterns_and_of_chains(memory: Any) -> None:
    name = "a#b ?[1]::c%20.jpg"
    memory.pipe_file(f"/bucket/{name}", b"1")
    (path,) = paths_of(open_input("memory://bucket"))
    assert path == f"memory:///bucket/{name}"
    assert read_image(path) == b"1"


def test_an_empty_object_is_an_empty_image(memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    memory.pipe_file("/bucket/a.jpg", b"")
    memory.pipe_file("/bucket/b.jpg", b"1")

    def refused(*_: object, **__: object) -> bytes:
        raise OSError("The requested range is not satisfiable")

    monkeypatch.setattr(type(memory), "cat_file", refused)
    assert read_image("memory://bucket/a.jpg") == b""
    for name in ("b.jpg", "gone.jpg"):
        with pytest.raises(OSError, match="not satisfiable"):
            read_image(f"memory://bucket/{name}")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("none", "no input at none; expected an image, a folder, a pattern"),
        ("none.txt", "no input at none.txt"),
        ("none.parquet", "no input at none.parquet"),
        ("none.jpg", "no input at none.jpg"),
        ("none/*.jpg", "no images at none/"),
        ("empty", "no images at empty; expected files ending in .avif"),
        ("mixed", "mixed holds images and Parquet files; give a pattern"),
        ("notes.md", "the input notes.md is of an unknown kind; expected an image, a folder"),
        ("m.pth", "the input m.pth is a checkpoint (.pth) by its name; expected an image, a folder"),
        ("unknown://bucket/x", "unknown://bucket/x cannot be opened"),
        ("memory://nothing", "no images at memory://nothing"),
        ("memory://nothing.txt", "no input at memory://nothing.txt"),
    ],
)
def test_an_input_that_cannot_be_used_is_one_line(
    text: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, memory: Any
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "mixed").mkdir()
    for name in ("mixed/a.jpg", "mixed/b.parquet", "notes.md", "m.pth"):
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CondInstError) as reported:
        open_input(text)
    assert reason in str(reported.value)
    assert "\n" not in str(reported.value)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"a.jpg\n" + b"x" * (LONGEST_LINE + 1), "line 2 is longer than 8192"),
        (b"a.jpg\nb\0.jpg\n", "line 2 has a zero byte"),
    ],
)
def test_a_list_that_is_no_list_is_refused(content: bytes, reason: str, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_bytes(content)
    with pytest.raises(CondInstError, match=reason):
        open_input(str(tmp_path / "list.txt")).fingerprint()


def test_a_list_that_cannot_be_read_to_its_end_is_one_line(memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    memory.pipe_file("/user:secret@bucket/list.txt", b"a.jpg\n")
    source = open_input("memory://user:secret@bucket/list.txt")

    def broken(*_: object, **__: object) -> Any:
        raise RuntimeError("the connection was reset\nand more")

    monkeypatch.setattr(fsspec, "open", broken)
    with pytest.raises(DataError, match=r"^memory://bucket/list.txt cannot be read \(the connection was reset\)$"):
        source.fingerprint()


def peak_of_planning(path: Path, count: int) -> int:
    """Bytes that reading a list of so many images takes at most."""
    path.write_text("".join(f"/images/of/a/folder/with/a/long/name/{i:012}.jpg\n" for i in range(count)))
    tracemalloc.start()
    source = open_input(str(path))
    assert source.fingerprint().images == count
    assert sum(len(shard) for shard in shards_of(source.spans(), 512)) == count
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak


def test_memory_for_a_list_does_not_grow_with_its_length(tmp_path: Path) -> None:
    peak_of_planning(tmp_path / "warm.txt", 2_000)
    few, many = peak_of_planning(tmp_path / "few.txt", 4_000), peak_of_planning(tmp_path / "many.txt", 40_000)
    assert many < 1.1 * few
