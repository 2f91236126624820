"""Batch runs on images that cannot be read or that the model fails on: rows with reasons, or an error."""

import os
from pathlib import Path
from typing import Any

import fsspec
import pytest
from PIL import Image, ImageFile

from condinst_deploy.errors import BackendError, ConfigError, ImageError, OutputError
from condinst_deploy.runtime.predictor import Predictor
from condinst_deploy.serving.batch.batch_driver import planned
from tests.support.batch_runs import (
    coco_part,
    options_of,
    parts,
    positions_and_paths,
    run_in_process,
)

pytestmark = pytest.mark.usefixtures("one_thread")

NOT_UTF8 = {
    # Arrow's text has no lone surrogates, and JSON's has
    "parquet": [rb"caf\\udce9.jpg", rb"none\\udce9.jpg", rb"\\udce9.jpg"],
    "coco": [rb"caf\udce9.jpg", rb"none\udce9.jpg", rb"\udce9.jpg"],
}


def test_images_that_cannot_be_read_are_rows_with_reasons(
    ten_images: list[Path], small_model: Path, tmp_path: Path
) -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe_file("/errors/good.jpg", ten_images[0].read_bytes())
    memory.pipe_file("/errors/bad.jpg", b"no image")
    (tmp_path / "folder.jpg").mkdir()
    lines = ["gone.jpg", "memory://errors/gone.jpg", str(ten_images[5]), "memory://errors/bad.jpg", "folder.jpg"]
    lines += [str(ten_images[0]), "memory://errors/good.jpg", "x" * 300 + ".jpg"]
    (tmp_path / "list.txt").write_text("\n".join(lines))
    run_in_process(options_of(tmp_path / "list.txt", small_model, tmp_path / "out", format="coco", shard_size=9))
    content = coco_part(tmp_path / "out", 0)
    kinds = {entry["id"]: entry["error"] for entry in content["errors"]}
    assert kinds == {1: "missing", 2: "missing", 3: "damaged", 4: "damaged", 5: "unreadable", 8: "unreadable"}
    assert [entry["id"] for entry in content["images"]] == [6, 7]
    reasons = {entry["id"]: entry["reason"] for entry in content["errors"]}
    assert reasons[2] == "no image at memory://errors/gone.jpg"
    assert reasons[4] == "memory://errors/bad.jpg is not an image in a known format"
    counts = [sum(a["image_id"] == i for a in content["annotations"]) for i in (6, 7)]
    assert counts[0] == counts[1] > 0


def test_a_storage_out_of_reach_is_an_error_and_no_part(small_model: Path, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("".join(f"/no/such/disk/{i}.jpg\n" for i in range(12)))
    options = options_of(tmp_path / "list.txt", small_model, tmp_path / "out", format="coco", shard_size=12)
    with pytest.raises(ImageError, match=r"none of 12 images of shard 0 can be read, .*run the same command again"):
        run_in_process(options)
    assert parts(tmp_path / "out") == []


def test_an_image_that_the_model_fails_on_is_a_row(
    ten_images: list[Path], small_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream, calls = Predictor.stream, []

    def failing(self: Predictor, images: Any) -> Any:
        calls.append(1)
        for image in images:
            if fails(str(image)):
                raise BackendError("the network gives NaN")
            yield from stream(self, [image])

    def fails(name: str) -> bool:
        return name.endswith("00002.jpg")

    run_in_process(options_of(ten_images[0].parent, small_model, tmp_path / "good", format="coco"))
    monkeypatch.setattr(Predictor, "stream", failing)
    _, events = run_in_process(options_of(ten_images[0].parent, small_model, tmp_path / "bad", format="coco"))
    assert len(calls) == 1 + 4 + 2  # the first shard, its images alone, the other two
    assert [event.report.failed for event in events if event.report is not None] == [1, 1, 0]
    good, bad = coco_part(tmp_path / "good", 0), coco_part(tmp_path / "bad", 0)
    assert bad["annotations"] == [entry for entry in good["annotations"] if entry["image_id"] != 3]
    (error,) = bad["errors"]
    assert (error["id"], error["error"], error["reason"]) == (3, "failed", "the network gives NaN")
    assert coco_part(tmp_path / "good", 1) == coco_part(tmp_path / "bad", 1)


def test_a_model_that_fails_on_every_image_ends_the_run(
    ten_images: list[Path], small_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(self: Predictor, images: Any) -> Any:
        for _ in images:
            raise BackendError("the network gives NaN")
        yield

    monkeypatch.setattr(Predictor, "stream", failing)
    with pytest.raises(BackendError, match="the model fails on every image of shard 0: the network gives NaN"):
        run_in_process(options_of(ten_images[0].parent, small_model, tmp_path, format="coco"))
    assert parts(tmp_path) == []


def test_rows_of_damaged_parquet_are_rows_with_reasons(
    ten_images: list[Path], small_model: Path, tmp_path: Path
) -> None:
    pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    pq = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    table = pa.table({"bytes": [ten_images[0].read_bytes()] * 12, "id": list(range(12))})
    name = str(tmp_path / "a.parquet")
    pq.write_table(table, name, row_group_size=4, compression="none", use_dictionary=False)
    start = pq.ParquetFile(name).metadata.row_group(1).column(0).data_page_offset
    with Path(name).open("r+b") as stream:
        stream.seek(start)
        stream.write(bytes(500))
    run_in_process(options_of(name, small_model, tmp_path / "out", format="coco", shard_size=6))
    content = [coco_part(tmp_path / "out", i) for i in (0, 1)]
    assert [entry["id"] for part in content for entry in part["images"]] == [1, 2, 3, 4, 9, 10, 11, 12]
    errors = [entry for part in content for entry in part["errors"]]
    assert [entry["id"] for entry in errors] == [5, 6, 7, 8]
    assert {entry["error"] for entry in errors} == {"damaged"}
    assert errors[0]["file_name"] == f"{name}#4"


def test_a_file_that_the_disk_does_not_give_is_unreadable(small_model: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").symlink_to("/proc/self/mem")  # opens, and reading it gives an input/output error
    (tmp_path / "nowhere.jpg").symlink_to(tmp_path / "gone.jpg")
    run_in_process(options_of(tmp_path, small_model, tmp_path / "out", format="coco"))
    errors = coco_part(tmp_path / "out", 0)["errors"]
    assert [(Path(entry["file_name"]).name, entry["error"]) for entry in errors] == [
        ("broken.jpg", "unreadable"),
        ("nowhere.jpg", "missing"),
    ]


def test_an_image_that_does_not_fit_into_memory_is_unreadable(
    small_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("large.png", "small.png"):
        Image.new("RGB", (40, 30) if name == "small.png" else (400, 300)).save(tmp_path / name)
    load = ImageFile.ImageFile.load

    def full(self: ImageFile.ImageFile) -> Any:
        if self.size == (400, 300):
            raise MemoryError("Unable to allocate 232. MiB")
        return load(self)

    monkeypatch.setattr(ImageFile.ImageFile, "load", full)
    run_in_process(options_of(tmp_path, small_model, tmp_path / "out", format="coco"))
    (error,) = coco_part(tmp_path / "out", 0)["errors"]
    assert (Path(error["file_name"]).name, error["error"]) == ("large.png", "unreadable")


def test_pipes_and_circles_of_links_are_rows_with_reasons(
    ten_images: list[Path], small_model: Path, tmp_path: Path
) -> None:
    (tmp_path / "in").mkdir()
    os.mkfifo(tmp_path / "in" / "a.jpg")  # opening it would wait for ever
    (tmp_path / "in" / "b.jpg").symlink_to("b.jpg")
    (tmp_path / "in" / "c.jpg").symlink_to("/dev/zero")
    (tmp_path / "in" / "d.jpg").symlink_to(ten_images[0])
    run_in_process(options_of(tmp_path / "in", small_model, tmp_path / "out", format="coco"))
    content = coco_part(tmp_path / "out", 0)
    assert [(entry["id"], entry["error"]) for entry in content["errors"]] == [(i, "unreadable") for i in (1, 2, 3)]
    for entry in (content["errors"][0], content["errors"][2]):
        assert entry["reason"].startswith(
            f"{entry['file_name']}: it is a pipe, a socket or a device, which is not read"
        )
    assert [entry["id"] for entry in content["images"]] == [4]


def test_names_in_a_list_that_are_no_utf8_are_written_escaped(
    form: str, ten_images: list[Path], small_model: Path, tmp_path: Path
) -> None:
    Path(os.fsdecode(bytes(tmp_path) + b"/caf\xe9.jpg")).write_bytes(ten_images[0].read_bytes())
    (tmp_path / "list.txt").write_bytes(b"caf\xe9.jpg\nnone\xe9.jpg\nmemory://none/\xe9.jpg\n")
    _, events = run_in_process(options_of(tmp_path / "list.txt", small_model, tmp_path / "out", format=form))
    (report,) = (event.report for event in events if event.report is not None)
    assert (report.images, report.failed) == (3, 2)
    if form == "coco":
        content = coco_part(tmp_path / "out", 0)
        names = [entry["file_name"] for entry in content["images"] + content["errors"]]
    else:
        names = [path for _, path in positions_and_paths(tmp_path / "out")]
    assert [name.rsplit("/", 1)[-1].encode("unicode_escape").lower() for name in names] == NOT_UTF8[form]


def test_a_pipe_in_place_of_the_lock_is_not_waited_for(
    ten_images: list[Path], small_model: Path, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / ".lock")
    options = options_of(ten_images[0].parent, small_model, tmp_path, format="coco")
    with planned(options), pytest.raises(ConfigError, match="another run writes into"), planned(options):
        pass


def test_a_lock_that_cannot_be_opened_is_named(ten_images: list[Path], small_model: Path, tmp_path: Path) -> None:
    (tmp_path / ".lock").mkdir()
    options = options_of(ten_images[0].parent, small_model, tmp_path, format="coco")
    with pytest.raises(OutputError, match=r"/\.lock cannot be written \(Is a directory\)"), planned(options):
        pass


@pytest.mark.parametrize("text", ["", "file://", "FILE://"])
def test_an_empty_path_is_not_the_current_folder(text: str, small_model: Path, tmp_path: Path) -> None:
    for options in (options_of(text, small_model, tmp_path), options_of(tmp_path, small_model, text)):
        with pytest.raises(ConfigError, match="expected the path or URL of a file or folder"), planned(options):
            pass


def test_a_column_of_images_that_are_files_is_refused(
    ten_images: list[Path], small_model: Path, tmp_path: Path
) -> None:
    options = options_of(ten_images[0].parent, small_model, tmp_path, format="coco", column="image")
    with pytest.raises(ConfigError, match=r"--column is for Parquet files, and .* is none; leave it out"):
        run_in_process(options)
