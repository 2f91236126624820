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
from typer.testing import CliRunner

from condinst_deploy.cli.batch import main
from condinst_deploy.cli.progress import ProgressLines
from condinst_deploy.errors import CondInstError, ConfigError, DataError, ImageError
from condinst_deploy.runtime.predictor import Predictor
from condinst_deploy.serving.batch.batch_driver import planned, run_here
from condinst_deploy.serving.batch.batch_options import DetectionOptions
from condinst_deploy.serving.batch.reporting import Event, EventLog, Totals
from condinst_deploy.serving.batch.shard_worker import ShardWorker
from condinst_deploy.serving.batch.storage import LocalFolder, UrlFolder
from tests.support.batch_runs import (
    COMMAND,
    assert_each_image_once,
    batch_command,
    coco_part,
    command_environment,
    options_of,
    parts,
    run_in_process,
    write_images,
)

pytestmark = pytest.mark.usefixtures("one_thread")


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


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"score_threshold": float("nan")}, "score_threshold is nan; expected a number from 0 to 1"),
        ({"score_threshold": 1.5}, "score_threshold is 1.5"),
        ({"max_detections": 0}, "max_detections is 0; expected a whole number from 1 to 10000"),
        ({"batch_size": 10**5000}, "batch_size is a whole number of"),
        ({"classes": ()}, "classes names no class"),
    ],
)
def test_options_that_fit_no_model_are_refused(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        DetectionOptions(**changes)


def test_a_run_that_fails_before_its_first_part_does_not_keep_the_folder(
    ten_images: list[Path], small_model: Path, tmp_path: Path
) -> None:
    unknown = DetectionOptions(device="cpu", classes=("a tree",))
    wrong = replace(options_of(ten_images[0].parent, small_model, tmp_path, format="coco"), detection=unknown)
    with pytest.raises(ConfigError, match="no class 'a tree'"):
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


def test_images_of_a_shard_are_counted_before_the_shard_is_done(
    ten_images: list[Path], small_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: list[int] = []
    with planned(options_of(ten_images[0].parent, small_model, tmp_path / "out", shard_size=6)) as plan:
        run_here(plan, lambda event: None, counted.append)
    assert counted == [*range(1, 7), 0, *range(1, 5), 0]
    shown: list[tuple[int, int]] = []

    def update(_lines: ProgressLines, _what: str, done: int, total: int) -> str:
        shown.append((done, total))
        return ""

    monkeypatch.setattr(ProgressLines, "update", update)
    arguments = [ten_images[0].parent, "--model", small_model, "--out", tmp_path / "again", "--shard-size", 6]
    assert CliRunner().invoke(main, [*map(str, arguments), "--device", "cpu", "--format", "coco"]).exit_code == 0
    assert shown == [(0, 10), *((i, 10) for i in range(1, 7)), (6, 10), *((i, 10) for i in range(7, 11)), (10, 10)]


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
