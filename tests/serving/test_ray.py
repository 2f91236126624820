"""Batch runs on a local Ray of several workers: the rows of one process, and what survives kills at random moments."""

import os
import random
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from condinst_deploy.errors import ArtifactError, CondInstError, ConfigError, OutputError
from condinst_deploy.serving import detect_dataset
from condinst_deploy.serving.batch.batch_driver import Plan, planned
from condinst_deploy.serving.batch.batch_options import BatchOptions, DetectionOptions
from condinst_deploy.serving.batch.reporting import Event, Totals
from condinst_deploy.serving.ray_session import RayOptions, worker_count
from condinst_deploy.support.remote_files import local_path
from tests.support.batch_runs import (
    assert_each_image_once,
    batch_command,
    events_of,
    options_of,
    positions_and_paths,
    run_in_process,
    write_images,
)

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("one_thread")]

WORKERS = 2
TWO_WORKERS = RayOptions(workers=WORKERS)


def run_on_two(
    options: BatchOptions, on_event: Callable[[Event], None] = lambda event: None
) -> tuple[Plan, list[Event]]:
    from condinst_deploy.serving.batch.ray_driver import run_on_ray

    events: list[Event] = []

    def both(event: Event) -> None:
        events.append(event)
        on_event(event)

    with planned(options) as plan:
        run_on_ray(plan, TWO_WORKERS, both)
    return plan, events


def of_kind(events: list[Event], kind: str) -> list[Event]:
    return [event for event in events if event.kind == kind]


class Killer:
    """Kills workers by SIGKILL at random moments, a few milliseconds after they were given shards."""

    def __init__(self, seed: int, kills: int, shards: int) -> None:
        self._random = random.Random(seed)
        self._moments = set(self._random.sample(range(1, shards), kills))
        self._starts = 0
        self.kills = 0

    def __call__(self, event: Event) -> None:
        if event.kind != "start":
            return
        self._starts += 1
        if self._starts in self._moments:
            process = int(event.worker.split("@")[0])
            threading.Timer(self._random.uniform(0, 0.2), self._kill, (process,)).start()

    def _kill(self, process: int) -> None:
        with suppress(ProcessLookupError):  # the run was over before
            os.kill(process, signal.SIGKILL)
            self.kills += 1


def assert_survives_kills(seed: int, kills: int, model: Path, folder: Path) -> None:
    paths = write_images(folder / "images", 120, damaged=[7])
    killer = Killer(seed, kills, shards=30)
    _, events = run_on_two(options_of(folder / "images", model, folder / "out"), killer)
    assert_each_image_once(folder / "out", paths)
    assert not of_kind(events, "failed")
    redone = [event for event in of_kind(events, "lost") if event.shard is not None]
    assert len(redone) <= killer.kills <= kills
    # nothing else was begun a second time, and no report came twice
    assert len(of_kind(events, "start")) == 30 + len(redone)
    assert sorted(event.shard or 0 for event in of_kind(events, "done")) == list(range(30))


@pytest.mark.usefixtures("ray")
def test_two_workers_write_what_one_process_writes(ten_images: list[Path], small_onnx: Path, tmp_path: Path) -> None:
    run_in_process(options_of(ten_images[0].parent, small_onnx, tmp_path / "one"))
    _, events = run_on_two(options_of(ten_images[0].parent, small_onnx, tmp_path / "two"))
    assert_each_image_once(tmp_path / "two", ten_images)
    for part in (tmp_path / "one").glob("part-*"):
        assert (tmp_path / "two" / part.name).read_bytes() == part.read_bytes()
    assert len({event.worker for event in of_kind(events, "ready")}) in (1, 2)  # the run may end before the second
    plan, events = run_on_two(options_of(ten_images[0].parent, small_onnx, tmp_path / "one"))
    assert (set(plan.finished), len(events)) == ({0, 1, 2}, 0)


@pytest.mark.usefixtures("ray")
def test_two_thousand_images_have_one_row_each(small_onnx: Path, tmp_path: Path) -> None:
    damaged = random.Random(0).sample(range(2000), 40)
    paths = write_images(tmp_path / "images", 2000, damaged)
    paths[77].unlink()  # after the list was made
    (tmp_path / "list.txt").write_text("".join(f"{path}\n" for path in paths))
    _, events = run_on_two(options_of(tmp_path / "list.txt", small_onnx, tmp_path / "out", shard_size=100))
    assert_each_image_once(tmp_path / "out", paths)
    from condinst_deploy.serving.batch.output_rows import read_part

    rows = [row for part in sorted((tmp_path / "out").glob("part-*")) for row in read_part(str(part))]
    assert {row.position for row in rows if row.error == "damaged"} == set(damaged)
    assert [row.position for row in rows if row.error == "missing"] == [77]
    assert all(row.reason and Path(row.path).name in row.reason for row in rows if row.error)
    totals = Totals()
    for event in events:
        totals(event)
    assert (totals.images, totals.failed, totals.shards, totals.redone) == (2000, 41, 20, 0)
    assert totals.detections == sum(len(row.detections) for row in rows if row.detections is not None) > 2000


@pytest.mark.usefixtures("ray")
@pytest.mark.parametrize("seed", range(2))
def test_killed_workers_cost_at_most_their_shards(seed: int, small_onnx: Path, tmp_path: Path) -> None:
    assert_survives_kills(seed, 2, small_onnx, tmp_path)


@pytest.mark.slow
@pytest.mark.usefixtures("ray")
@pytest.mark.parametrize("seed", range(100, 120))
def test_killed_workers_cost_at_most_their_shards_twenty_times(seed: int, small_onnx: Path, tmp_path: Path) -> None:
    assert_survives_kills(seed, 3, small_onnx, tmp_path)


@pytest.mark.usefixtures("ray")
def test_a_shard_that_kills_every_worker_is_left_out_and_the_others_are_done(small_onnx: Path, tmp_path: Path) -> None:
    write_images(tmp_path / "images", 12)

    def kill(event: Event) -> None:
        if event.kind == "start" and event.shard == 1:
            os.kill(int(event.worker.split("@")[0]), signal.SIGKILL)

    _, events = run_on_two(options_of(tmp_path / "images", small_onnx, tmp_path / "out"), kill)
    (failed,) = of_kind(events, "failed")
    assert failed.shard == 1
    assert (failed.reason or "").startswith("4 workers died or failed while they had it; the last one: ")
    assert sorted(event.shard or 0 for event in of_kind(events, "done")) == [0, 2]
    assert [position for position, _ in positions_and_paths(tmp_path / "out")] == [*range(4), *range(8, 12)]
    run_on_two(options_of(tmp_path / "images", small_onnx, tmp_path / "out"))
    assert len(positions_and_paths(tmp_path / "out")) == 12


@pytest.mark.usefixtures("ray")
def test_errors_of_workers_reach_the_driver_as_they_are(
    ten_images: list[Path], small_onnx: Path, tmp_path: Path
) -> None:
    from condinst_deploy.serving.batch.ray_driver import run_on_ray

    wrong = BatchOptions(
        str(ten_images[0].parent), small_onnx, str(tmp_path / "a"), DetectionOptions("cpu", classes=("class x",))
    )
    with pytest.raises(ConfigError, match="the model has no class 'class x'"):
        run_on_two(wrong)
    options = options_of(ten_images[0].parent, small_onnx, tmp_path / "b")
    with planned(options) as plan:
        other = replace(plan, job=replace(plan.job, model_sha256="0" * 64))
        with pytest.raises(ArtifactError, match="is not the model of this run; every machine needs the same file"):
            run_on_ray(other, TWO_WORKERS, lambda event: None)
        local_path(options.out).joinpath("part-00000000.parquet").mkdir()
        with pytest.raises(OutputError, match=r"part-00000000.parquet is a folder"):
            run_on_ray(plan, TWO_WORKERS, lambda event: None)


def test_workers_that_die_while_loading_end_the_run(
    ray: Any, ten_images: list[Path], small_onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from condinst_deploy.serving.batch import ray_driver

    class Dying(ray_driver.ShardActor):
        def load(self) -> Any:
            os._exit(1)

    monkeypatch.setattr(ray_driver, "ShardActor", Dying)
    with pytest.raises(CondInstError, match="3 workers died while they loaded the model; the last one: "):
        run_on_two(options_of(ten_images[0].parent, small_onnx, tmp_path))


def test_a_cluster_that_asks_for_a_token_is_one_line_without_one(
    ray: Any, ten_images: list[Path], small_onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = ray.get_runtime_context().gcs_address
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    arguments = (ten_images[0].parent, "--model", small_onnx, "--out", "out", "--address", address)
    done = batch_command(*arguments, cwd=tmp_path, RAY_AUTH_MODE="disabled", RAY_NUM_REDIS_GET_RETRIES="1")
    assert done.returncode == 1
    assert f"error: no Ray cluster at {address} (" in done.stderr
    assert "A cluster with tokens needs RAY_AUTH_MODE=token here, too" in done.stderr


def test_the_number_of_workers_follows_the_cluster(ray: Any) -> None:
    cpus = ray.cluster_resources()["CPU"]
    assert worker_count(ray, RayOptions(), {"num_cpus": 0.5, "num_gpus": 0.0}) == int(2 * cpus)
    assert worker_count(ray, RayOptions(), {"num_cpus": 1000.0, "num_gpus": 0.0}) == 1
    assert worker_count(ray, RayOptions(workers=7), {"num_cpus": 1.0, "num_gpus": 0.5}) == 7


def test_a_dataset_gets_the_detections_of_the_batch_run(
    ray: Any, ten_images: list[Path], small_onnx: Path, tmp_path: Path
) -> None:
    from condinst_deploy.serving.batch.output_rows import read_part

    run_in_process(options_of(ten_images[0].parent, small_onnx, tmp_path, shard_size=10))
    expected = {row.path: row for row in read_part(str(tmp_path / "part-00000000.parquet"))}
    rows = [{"path": str(path), "bytes": path.read_bytes(), "tag": i} for i, path in enumerate(ten_images)]
    detection = DetectionOptions("cpu", max_detections=5)
    found = detect_dataset(ray.data.from_items(rows), small_onnx, detection=detection).take_all()
    assert sorted((row["tag"], row["path"]) for row in found) == [(i, str(path)) for i, path in enumerate(ten_images)]
    assert "bytes" not in found[0]
    for row in found:
        wanted = expected[row["path"]]
        assert (row["error"], row["reason"]) == (wanted.error, wanted.reason)
        if wanted.detections is not None:
            assert list(row["masks"]) == [rle["counts"] for rle in wanted.detections.masks.rle()]
            assert list(row["names"]) == wanted.detections.names
            assert [list(box) for box in row["boxes"]] == wanted.detections.boxes.tolist()


def test_a_dataset_of_paths_on_two_workers(ray: Any, ten_images: list[Path], small_onnx: Path) -> None:
    dataset = ray.data.from_items([{"file": str(path)} for path in ten_images])
    detection = DetectionOptions("cpu", max_detections=5)
    found = detect_dataset(dataset, small_onnx, column="file", detection=detection, ray_options=TWO_WORKERS)
    assert sorted(row["path"] for row in found.take_all()) == list(map(str, ten_images))
    with pytest.raises(ConfigError, match="address is x:1; a dataset runs where"):
        detect_dataset(dataset, small_onnx, ray_options=RayOptions("x:1"))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"column": "nope"}, "the dataset has no column 'nope'; its columns are path, tag"),
        ({"column": "tag"}, r"the dataset has no column of images: its columns are path \(string\), tag \(int64\)"),
        ({"column": 3}, "column is 3; expected text or None"),
        ({"model": "nothing.onnx"}, "nothing.onnx"),
        ({"model": 3}, "model is 3; expected a path"),
        ({"detection": {"device": "cpu"}}, r"detection is \{.*; expected DetectionOptions or None"),
        ({"ray_options": 2}, "ray_options is 2; expected RayOptions or None"),
        ({"dataset": ["a.jpg"]}, r"dataset is \['a.jpg'\]; expected a ray.data.Dataset"),
    ],
)
def test_a_dataset_that_cannot_be_used_is_refused_at_the_call(
    changes: dict[str, Any], reason: str, ray: Any, small_onnx: Path
) -> None:
    dataset = ray.data.from_items([{"path": "a.jpg", "tag": 1}])
    with pytest.raises(CondInstError, match=reason):
        detect_dataset(**{"dataset": dataset, "model": small_onnx, **changes})


def test_a_column_that_the_results_have_too_is_refused_at_the_call(ray: Any, small_onnx: Path) -> None:
    dataset = ray.data.from_items([{"path": "a.jpg", "boxes": 1}])
    with pytest.raises(ConfigError, match="the dataset has a column 'boxes', and so have the results; rename it"):
        detect_dataset(dataset, small_onnx)


def test_images_of_a_dataset_that_cannot_be_read_are_rows_with_reasons(ray: Any, small_onnx: Path) -> None:
    rows = [{"file": path} for path in ("/nope.jpg", None, "", "/tmp")]
    detection = DetectionOptions("cpu")
    found = detect_dataset(ray.data.from_items(rows), small_onnx, column="file", detection=detection).take_all()
    assert [row["error"] for row in found] == ["missing", "damaged", "missing", "unreadable"]
    assert all(row["reason"] for row in found)
    empty = ray.data.from_items([{"file": "x"}]).filter(lambda row: row["file"] != "x")
    assert detect_dataset(empty, small_onnx, column="file", detection=detection).take_all() == []


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"workers": 0}, "workers is 0; expected 1 to 100000"),
        ({"gpus_per_worker": 1.5}, "gpus_per_worker is 1.5; expected 0, a part of 1"),
        ({"gpus_per_worker": 1.00000001}, "gpus_per_worker is 1.00000001; expected 0, a part of 1"),
        ({"gpus_per_worker": float("nan")}, "gpus_per_worker is nan"),
        ({"gpus_per_worker": float("inf")}, "gpus_per_worker is inf; expected 0, a part of 1"),
        ({"gpus_per_worker": 10**400}, "gpus_per_worker is a whole number of 1,329 bits; expected 0, a part of 1"),
        ({"cpus_per_worker": 0.0}, "cpus_per_worker is 0.0; expected 0.01 to 10000"),
    ],
)
def test_options_out_of_range_are_refused(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        RayOptions(**changes)


def test_events_are_written_for_the_record(ten_images: list[Path], small_onnx: Path, tmp_path: Path) -> None:
    from condinst_deploy.serving.batch.reporting import EventLog

    with EventLog(tmp_path) as log:
        log(Event("start", "1@host", 3))
        log(Event("lost", "1@host", 3, "it died"))
    assert [{k: v for k, v in event.items() if k != "time"} for event in events_of(tmp_path)] == [
        {"kind": "start", "worker": "1@host", "shard": 3},
        {"kind": "lost", "worker": "1@host", "shard": 3, "reason": "it died"},
    ]


def test_images_are_counted_before_their_shard_is_done(
    ray: Any, ten_images: list[Path], small_onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from condinst_deploy.serving.batch import ray_driver

    class Telling(ray_driver.ShardActor):
        count_seconds = 0.0

    monkeypatch.setattr(ray_driver, "ShardActor", Telling)
    images: list[int] = []
    with planned(options_of(ten_images[0].parent, small_onnx, tmp_path, shard_size=10)) as plan:
        ray_driver.run_on_ray(plan, TWO_WORKERS, lambda event: None, images.append)
    assert images == [*range(1, 11), 0]
