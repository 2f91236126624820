"""Batch runs in one process: what is written, what is kept, and what is refused."""

import json
import os
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from pycocotools.coco import COCO

from condinst_deploy.errors import BackendError, CondInstError, ConfigError, DataError, ImageError
from condinst_deploy.runtime.predictor import Predictor
from condinst_deploy.serving.batch.driver import planned
from condinst_deploy.serving.batch.options import DetectionOptions
from condinst_deploy.serving.batch.reporting import Event, EventLog, Totals, status_line
from condinst_deploy.serving.batch.shard_worker import ShardWorker
from condinst_deploy.serving.batch.storage import LocalFolder, UrlFolder
from tests.support.batch_runs import (
    COMMAND,
    assert_each_image_once,
    batch_command,
    command_environment,
    options_of,
    parts,
    positions_and_paths,
    run_in_process,
    write_images,
)

pytestmark = pytest.mark.usefixtures("one_thread")


NOT_UTF8 = {
    # Arrow's text has no lone surrogates, and JSON's has
    "parquet": [rb"caf\\udce9.jpg", rb"none\\udce9.jpg", rb"\\udce9.jpg"],
    "coco": [rb"caf\udce9.jpg", rb"none\udce9.jpg", rb"\udce9.jpg"],
}


def coco_part(folder: Path, index: int) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / f"part-{index:08d}.json").read_text())
    return content


def test_coco_parts_hold_what_the_predictor_finds(ten_images: list[Path], small_model: Path, tmp_path: Path) -> None:
    plan, events = run_in_process(options_of(ten_images[0].parent, small_model, tmp_path / "out", format="coco"))
    assert (plan.images, plan.shards, plan.finished_images) == (10, 3, 0)
    assert parts(tmp_path / "out") == [f"part-0000000{i}.json" for i in range(3)]
    with Predictor(small_model, device="cpu", max_detections=5) as predictor:
        good = [path for i, path in enumerate(ten_images) if i != 5]
        expected = dict(zip(map(str, good), predictor(good), strict=True))
    assert sum(map(len, expected.values())) > 10
    content = [coco_part(tmp_path / "out", i) for i in range(3)]
    listed = [entry for part in content for entry in part["images"]]
    assert [(e["id"], e["file_name"]) for e in listed] == [(i + 1, str(ten_images[i])) for i in range(10) if i != 5]
    annotations = [entry for part in content for entry in part["annotations"]]
    assert len({entry["id"] for entry in annotations}) == len(annotations)
    names = {entry["id"]: entry["file_name"] for entry in listed}
    for path, detections in expected.items():
        found = [entry for entry in annotations if names[entry["image_id"]] == path]
        wanted = detections.to_coco(found[0]["image_id"] if found else 0)
        assert [{key: entry[key] for key in wanted[0]} for entry in found] == wanted
        assert [entry["area"] for entry in found] == detections.masks.areas.tolist()
    (error,) = content[1]["errors"]
    assert (error["id"], error["file_name"], error["error"]) == (6, str(ten_images[5]), "damaged")
    assert error["reason"].startswith(str(ten_images[5]))
    totals = Totals()
    for event in events:
        totals(event)
    assert (totals.images, totals.failed, totals.detections, totals.shards) == (10, 1, len(annotations), 3)


def test_a_coco_part_loads_in_pycocotools(ten_images: list[Path], small_model: Path, tmp_path: Path) -> None:
    run_in_process(options_of(ten_images[0].parent, small_model, tmp_path, format="coco"))
    coco = COCO(str(tmp_path / "part-00000000.json"))
    (first, *_) = coco.getAnnIds(imgIds=[1])
    assert coco.annToMask(coco.loadAnns([first])[0]).sum() == coco.loadAnns([first])[0]["area"]


def test_parquet_parts_give_back_the_same_detections(ten_images: list[Path], small_model: Path, tmp_path: Path) -> None:
    pq = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    from condinst_deploy.serving.batch.output_rows import read_part

    run_in_process(options_of(ten_images[0].parent, small_model, tmp_path, shard_size=70))
    assert_each_image_once(tmp_path, ten_images)
    rows = list(read_part(str(tmp_path / "part-00000000.parquet")))
    assert [(row.error, row.detections is None) for row in rows] == [
        ("damaged" if i == 5 else None, i == 5) for i in range(10)
    ]
    with Predictor(small_model, device="cpu", max_detections=5) as predictor:
        for row in rows:
            if row.detections is not None:
                (expected,) = predictor(row.path)
                assert row.detections.to_coco(1) == expected.to_coco(1)
                assert row.detections.names == expected.names
    table = pq.read_table(tmp_path / "part-00000000.parquet")
    assert table.column("height").to_pylist() == [None if i == 5 else 32 for i in range(10)]
    assert np.array(table.column("boxes")[0].as_py()).shape[1:] == (4,)
    assert isinstance(table.column("masks")[0].as_py()[0], bytes)


def test_contents_in_parquet_and_paths_give_the_same_rows(
    ten_images: list[Path], small_model: Path, tmp_path: Path
) -> None:
    pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    pq = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    names = list(map(str, ten_images))
    contents = [path.read_bytes() for path in ten_images]
    inputs = {"a": {"bytes": contents, "path": names}, "b": {"path": names}}
    inputs["c"] = {"image": [{"bytes": content, "path": name} for content, name in zip(contents, names, strict=True)]}
    tables = []
    for name, columns in inputs.items():
        pq.write_table(pa.table(columns), tmp_path / f"{name}.parquet", row_group_size=3)
        run_in_process(options_of(tmp_path / f"{name}.parquet", small_model, tmp_path / name))
        tables.append(pa.concat_tables(pq.read_table(p) for p in sorted((tmp_path / name).glob("part-*"))))
    run_in_process(options_of(ten_images[0].parent, small_model, tmp_path / "d"))
    tables.append(pa.concat_tables(pq.read_table(p) for p in sorted((tmp_path / "d").glob("part-*"))))
    assert all(table.equals(tables[0]) for table in tables)


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
    with pytest.raises(ImageError, match=r"none of the 12 images of shard 0 can be read, .*run the same command again"):
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


@pytest.mark.parametrize("text", ["", "file://", "FILE://"])
def test_an_empty_path_is_not_the_current_folder(text: str, small_model: Path, tmp_path: Path) -> None:
    for options in (options_of(text, small_model, tmp_path), options_of(tmp_path, small_model, text)):
        with pytest.raises(ConfigError, match="expected the path or URL of a file or folder"), planned(options):
            pass


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"score_threshold": float("nan")}, "score_threshold is nan; expected a number from 0 to 1"),
        ({"score_threshold": 1.5}, "score_threshold is 1.5"),
        ({"max_detections": 0}, "max_detections is 0; expected 1 to 1000000"),
        ({"batch_size": 10**5000}, "batch_size is a whole number of"),
        ({"classes": ()}, "classes names no class"),
    ],
)
def test_options_that_fit_no_model_are_refused(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        DetectionOptions(**changes)


def test_a_column_of_images_that_are_files_is_refused(
    ten_images: list[Path], small_model: Path, tmp_path: Path
) -> None:
    options = options_of(ten_images[0].parent, small_model, tmp_path, format="coco", column="image")
    with pytest.raises(ConfigError, match=r"--column is for Parquet files, and .* is none; leave it out"):
        run_in_process(options)


def test_a_run_that_fails_before_its_first_part_does_not_keep_the_folder(
    ten_images: list[Path], small_model: Path, tmp_path: Path
) -> None:
    wrong = options_of(ten_images[0].parent, small_model, tmp_path, format="coco", max_detections=101)
    with pytest.raises(ConfigError, match="max_detections is 101"):
        run_in_process(wrong)
    assert not (tmp_path / "run.json").exists()
    run_in_process(options_of(ten_images[0].parent, small_model, tmp_path, format="coco"))
    with pytest.raises(ConfigError, match="belongs to another run"):
        run_in_process(wrong)
    assert len(parts(tmp_path)) == 3
    assert (tmp_path / "run.json").exists()


def test_inputs_without_images_and_outputs_in_place_of_inputs_are_refused(small_model: Path, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("\n \n")
    with pytest.raises(ImageError, match=r"list\.txt names no images"):
        run_in_process(options_of(tmp_path / "list.txt", small_model, tmp_path / "out"))
    write_images(tmp_path / "images", 2)
    with pytest.raises(ConfigError, match=r"--out .*images/ is the input; name another folder"):
        run_in_process(options_of(tmp_path / "images", small_model, f"{tmp_path}/images/"))


def test_an_output_folder_in_the_input_is_continued(small_model: Path, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    paths = write_images(tmp_path, 6)
    options = options_of(tmp_path, small_model, tmp_path / "out")
    run_in_process(options)
    (tmp_path / "out" / "part-00000001.parquet").unlink()
    plan, _ = run_in_process(options)
    assert plan.finished == {0}
    assert_each_image_once(tmp_path / "out", paths)


@pytest.mark.parametrize("change", [-1, 1])
def test_a_list_that_changes_during_the_run_is_an_error(change: int, small_model: Path, tmp_path: Path) -> None:
    names = [f"{path}\n" for path in write_images(tmp_path / "images", 8)]
    (tmp_path / "list.txt").write_text("".join(names[:7]))
    options = options_of(tmp_path / "list.txt", small_model, tmp_path / "out", format="coco")
    with planned(options) as plan:
        (tmp_path / "list.txt").write_text("".join(names[: 7 + change]))
        with pytest.raises(DataError, match=r"list\.txt changed during the run: it had 7 images"):
            list(plan.pending())


def test_workers_of_another_version_or_another_folder_are_refused(
    ten_images: list[Path], small_model: Path, tmp_path: Path
) -> None:
    options = options_of(ten_images[0].parent, small_model, tmp_path / "out", format="coco")
    with planned(options) as plan:
        job = plan.job
    with ShardWorker(job) as worker:
        assert worker.note == "torch on cpu"
    with pytest.raises(ConfigError, match=r"is .*, and 0\.0\.1 where the command was started"):
        ShardWorker(replace(job, version="0.0.1"))
    elsewhere = replace(job, options=replace(options, out=str(tmp_path / "elsewhere")))
    with pytest.raises(ConfigError, match=r"elsewhere on .* has no run\.json of this run; every machine"):
        ShardWorker(elsewhere)


def test_of_two_drivers_the_second_one_sees_the_first_ones_manifest(
    ten_images: list[Path], small_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = options_of(ten_images[0].parent, small_model, "memory://race/out", format="coco")
    second = options_of(ten_images[0].parent, small_model, "memory://race/out", format="coco", max_detections=1)
    with planned(first):
        pass
    read, calls = UrlFolder.read, []

    def read_too_early(self: UrlFolder, name: str) -> bytes | None:
        calls.append(name)
        return None if calls.count("run.json") == 1 else read(self, name)

    monkeypatch.setattr(UrlFolder, "read", read_too_early)
    with pytest.raises(ConfigError, match="race/out belongs to another run"), planned(second):
        pass
    assert [name for name in calls if name != ".lock"] == ["run.json"] * 2


def test_events_after_a_kill_in_the_middle_of_a_line_are_lines(tmp_path: Path) -> None:
    (tmp_path / "events.jsonl").write_text('{"kind":"rea')
    for _ in range(2):
        with EventLog(tmp_path) as log:
            log(Event("start", "1@host", 3))
    lines = (tmp_path / "events.jsonl").read_text().splitlines()
    assert lines[0] == '{"kind":"rea'
    assert [json.loads(line)["shard"] for line in lines[1:]] == [3, 3]


def test_output_behind_a_url_is_resumed(ten_images: list[Path], small_model: Path, tmp_path: Path) -> None:
    memory = fsspec.filesystem("memory")
    options = options_of(ten_images[0].parent, small_model, "memory://results/run", format="coco")
    plan, _ = run_in_process(options)
    assert len(plan.finished) == 0
    names = [f"part-0000000{i}.json" for i in range(3)]
    assert sorted(path.rsplit("/", 1)[-1] for path in memory.ls("/results/run", detail=False)) == [*names, "run.json"]
    memory.rm("/results/run/part-00000001.json")
    plan, events = run_in_process(options)
    assert plan.finished == {0, 2}
    assert [event.shard for event in events if event.kind == "done"] == [1]
    with pytest.raises(ConfigError, match=r"memory://results/run belongs to another run: options.max_detections was 5"):
        run_in_process(
            options_of(ten_images[0].parent, small_model, "memory://results/run", format="coco", max_detections=4)
        )


def test_credentials_in_urls_are_not_written(small_model: Path, tmp_path: Path, ten_images: list[Path]) -> None:
    fsspec.filesystem("memory").pipe_file("/user:secret@host/a.jpg", ten_images[0].read_bytes())
    run_in_process(options_of("memory://user:secret@host/a.jpg", small_model, tmp_path / "out", format="coco"))
    for path in (tmp_path / "out").iterdir():
        assert "secret" not in path.read_text()
    assert coco_part(tmp_path / "out", 0)["images"][0]["file_name"] == "memory://host/a.jpg"


def test_the_command_tells_what_it_did(ten_images: list[Path], small_model: Path, tmp_path: Path) -> None:
    arguments = (ten_images[0].parent, "--model", small_model, "--out", "out", "--format", "coco", "--shard-size", "4")
    done = batch_command(*arguments, "--device", "cpu", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"10 images in 3 shards, {small_model} in this process" in done.stderr
    assert done.stdout.startswith("10 images, 1 of them with an error, ")
    assert done.stdout.endswith(" in 3 new parts; 3 of 3 parts: out\n")
    again = batch_command(*arguments, "--device", "cpu", "--json", cwd=tmp_path)
    summary = json.loads(again.stdout)
    assert again.returncode == 0
    assert (summary["parts_before"], summary["parts"], summary["images"]) == (3, 0, 0)
    refused = batch_command(*arguments, "--device", "cpu", "--max-detections", "3", cwd=tmp_path)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert (
        f"error: {tmp_path}/out belongs to another run: options.max_detections was not set and is 3 now"
        in refused.stderr
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_stop_a_run_that_can_go_on(number: signal.Signals, small_model: Path, tmp_path: Path) -> None:
    paths = write_images(tmp_path / "many", 3000)
    out = tmp_path / "out"
    arguments = (tmp_path / "many", "--model", small_model, "--out", out, "--format", "coco", "--shard-size", "10")
    with subprocess.Popen(
        [*COMMAND, *map(str, arguments), "--device", "cpu", "--max-detections", "5"],
        env=command_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        deadline = time.monotonic() + 120
        while not parts(out) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(number)
        _, reported = process.communicate(timeout=120)
    assert process.returncode == 128 + number
    assert reported.endswith(
        "interrupted; the parts that are there are whole, and the same command continues the run\n"
    )
    assert "Traceback" not in reported
    finished = len(parts(out))
    assert 0 < finished < 300
    assert not list(out.glob(".part-*"))
    with planned(options_of(tmp_path / "many", small_model, out, format="coco", shard_size=10)) as plan:
        assert (plan.finished_images, plan.images) == (10 * finished, len(paths))


@pytest.mark.parametrize(
    ("done", "of", "rate", "expected"),
    [
        (0, 20_000, 0.0, "0 of 20,000 images"),
        (1_024, 20_000, 85.23, "1,024 of 20,000 images, 85.2 images/s, 3 min left"),
        (19_990, 20_000, 1.0, "19,990 of 20,000 images, 1 images/s, 10 s left"),
        (0, 1_000_000, 10.0, "0 of 1,000,000 images, 10 images/s, 27 h 46 min left"),
        (5, 5, 0.512, "5 of 5 images, 0.512 images/s, 0 s left"),
    ],
)
def test_progress_has_rate_and_time_left(done: int, of: int, rate: float, expected: str) -> None:
    assert status_line(done, of, rate) == expected


def test_ray_options_without_ray_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from condinst_deploy.serving import ray_session

    monkeypatch.setattr(ray_session, "find_spec", lambda name: None)
    with pytest.raises(
        CondInstError, match=r"Ray is not installed: pip install 'condinst-deploy.ray.'.* runs in one process"
    ):
        ray_session.check_ray()


def test_a_part_is_synced_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[bool] = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append((tmp_path / "part").exists()))
    LocalFolder(tmp_path).write("part", b"content")
    assert synced == [False, True]  # the file, then its folder
    assert (tmp_path / "part").read_bytes() == b"content"
