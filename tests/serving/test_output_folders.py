"""Output folders of batch runs in one process: resumed, of another run, locked, full, and not to be written."""

import errno
import fcntl
import os
from pathlib import Path
from stat import S_ISREG
from typing import Any

import pytest

from condinst_deploy.errors import CondInstError, ConfigError, OutputError
from condinst_deploy.serving.batch.batch_driver import planned, run_here
from condinst_deploy.serving.batch.reporting import Event
from condinst_deploy.support.folder_lock import locked_folder
from tests.support.batch_runs import (
    options_of,
    parts,
    run_in_process,
)

pytestmark = pytest.mark.usefixtures("one_thread")


def test_a_model_of_another_kind_is_refused_before_a_folder_is_made(ten_images: list[Path], tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    out = tmp_path / "out"
    options = options_of(ten_images[0].parent, tmp_path / "notes.txt", out)
    with pytest.raises(ConfigError, match=r"notes\.txt is a text file by its name; expected a model"), planned(options):
        raise AssertionError
    assert not out.exists()


def test_a_run_goes_on_where_it_was_stopped(ten_images: list[Path], small_model: Path, tmp_path: Path) -> None:
    options = options_of(ten_images[0].parent, small_model, tmp_path, format="coco")

    class Stopped(Exception):
        pass

    def stop(event: Event) -> None:
        if event.kind == "done":
            raise Stopped

    with planned(options) as plan, pytest.raises(Stopped):
        run_here(plan, stop)
    assert parts(tmp_path) == ["part-00000000.json"]
    before = (tmp_path / "part-00000000.json").stat()
    plan, events = run_in_process(options)
    assert (set(plan.finished), plan.finished_images) == ({0}, 4)
    assert [event.shard for event in events if event.kind == "start"] == [1, 2]
    plan, events = run_in_process(options)
    assert (set(plan.finished), plan.finished_images, len(events)) == ({0, 1, 2}, 10, 0)
    after = (tmp_path / "part-00000000.json").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_a_part_that_is_not_whole_is_written_again(
    form: str, ten_images: list[Path], small_model: Path, tmp_path: Path
) -> None:
    options = options_of(ten_images[0].parent, small_model, tmp_path, format=form)
    run_in_process(options)
    contents = {name: (tmp_path / name).read_bytes() for name in parts(tmp_path)}
    half, empty, _ = contents
    (tmp_path / half).write_bytes(contents[half][: len(contents[half]) // 2])
    (tmp_path / empty).write_bytes(b"")
    (tmp_path / f".{half}.123.456.partial").write_bytes(b"half")
    plan, _ = run_in_process(options)
    assert plan.finished == {2}
    assert {name: (tmp_path / name).read_bytes() for name in parts(tmp_path)} == contents
    assert not list(tmp_path.glob(".part-*"))
    whole, end = contents[half], 16
    for damaged in (whole[-end:], whole[:-end], bytes(len(whole) - end) + whole[-end:], b"x" + whole[1:], whole[:8]):
        (tmp_path / half).write_bytes(damaged)
        with planned(options) as plan:
            assert plan.finished == {1, 2}


def test_a_folder_of_another_run_is_refused(ten_images: list[Path], small_model: Path, tmp_path: Path) -> None:
    source, out = ten_images[0].parent, tmp_path / "out"
    run_in_process(options_of(source, small_model, out, format="coco"))
    other_model = tmp_path / "small.pth"
    other_model.write_bytes(small_model.read_bytes() + b" ")
    (tmp_path / "list.txt").write_text(f"{ten_images[0]}\n")
    others = {
        "model.sha256 was": options_of(source, other_model, out, format="coco"),
        "options.max_detections was 5 and is 3 now": options_of(
            source, small_model, out, format="coco", max_detections=3
        ),
        "options.shard_size was 4 and is 5 now": options_of(source, small_model, out, format="coco", shard_size=5),
        "input.source was": options_of(tmp_path / "list.txt", small_model, out, format="coco"),
    }
    before = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    for reason, options in others.items():
        with pytest.raises(ConfigError, match=rf"out belongs to another run: .*{reason}"):
            run_in_process(options)
    (out / "run.json").unlink()
    with pytest.raises(ConfigError, match=r"has parts and no run\.json"):
        run_in_process(options_of(source, small_model, out, format="coco"))
    after = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    assert {**before, "run.json": 0} == {**after, "run.json": 0}


EDITED = {
    "": r"run\.json: the manifest is not JSON",
    "[" * 100_000: r"run\.json: the manifest is not JSON that can be read \(nested too deeply\)",
    "[]": r"run\.json: the manifest has version None; this release reads 1: name another --out",
    '{"version": 2}': r"run\.json: the manifest has version 2; this release reads 1: name another --out",
    '{"version": 1}': r"rows was not set and is 1 now; model was not set and is \{",
    "9" * 1000: "input.images was a whole number of 3,322 bits and is 10 now",
    "9" * 5000: r"run\.json: the manifest has version None",
    "NaN": "input.images was nan and is 10 now",
    "1e999": "input.images was inf and is 10 now",
    '{"a": NaN}': r"input.images was \{'a': nan\} and is 10 now",
    '"\\ud800\\u001b"': r"input.images was '\\ud800\\x1b' and is 10 now",
    f'10, "{"x" * 9000}": 1': r"input.x+\[... 8,960 more characters ...\]x+ was 1 and is not set now",
}
"""Manifests, or the number of images in them, and what the refusal says."""


@pytest.mark.parametrize("edited", EDITED, ids=range(len(EDITED)))
def test_a_manifest_that_was_edited_by_hand_is_one_line(
    edited: str, ten_images: list[Path], small_model: Path, tmp_path: Path
) -> None:
    options = options_of(ten_images[0].parent, small_model, tmp_path, format="coco")
    with planned(options):
        pass
    path = tmp_path / "run.json"
    as_number = path.read_text().replace('"images": 10', f'"images": {edited}')
    path.write_text(as_number if "input.images" in EDITED[edited] or "input.x" in EDITED[edited] else edited)
    with pytest.raises(ConfigError, match=EDITED[edited]) as reported, planned(options):
        pass
    assert len(str(reported.value)) < 600
    assert str(reported.value).isascii()


def test_a_folder_without_parts_can_be_used_after_its_manifest_is_removed(
    ten_images: list[Path], small_model: Path, tmp_path: Path
) -> None:
    with planned(options_of(ten_images[0].parent, small_model, tmp_path, format="coco", max_detections=1)):
        pass
    options = options_of(ten_images[0].parent, small_model, tmp_path, format="coco")
    with pytest.raises(ConfigError, match=r"It has no parts: remove run\.json to use the folder for this run"):
        run_in_process(options)
    (tmp_path / "run.json").unlink()
    run_in_process(options)
    assert len(parts(tmp_path)) == 3


def test_a_manifest_that_is_no_file_is_refused(ten_images: list[Path], small_model: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "run.json")  # reading it would wait for ever
    with pytest.raises(OutputError, match=r"run\.json is not an ordinary file; choose another place"):
        run_in_process(options_of(ten_images[0].parent, small_model, tmp_path, format="coco"))


@pytest.mark.parametrize(
    "name",
    [
        "part-00000003.json",
        "part-000000001.json",
        "part-\N{ARABIC-INDIC DIGIT ONE}.json",
        "part-1.json",
        "part-00000001 (1).json",
    ],
)
def test_parts_of_other_runs_are_refused(name: str, ten_images: list[Path], small_model: Path, tmp_path: Path) -> None:
    """Whoever reads all parts would find images twice."""
    options = options_of(ten_images[0].parent, small_model, tmp_path, format="coco")
    run_in_process(options)
    (tmp_path / "part-00000001.json").rename(tmp_path / name)
    with pytest.raises(ConfigError, match=r"which is not one of the 3 parts of this run; move it away, or name"):
        run_in_process(options)
    (tmp_path / name).unlink()
    (tmp_path / "part-notes.md").touch()
    run_in_process(options)
    assert parts(tmp_path) == [*(f"part-0000000{i}.json" for i in range(3)), "part-notes.md"]


def test_two_drivers_cannot_write_into_one_folder(ten_images: list[Path], small_model: Path, tmp_path: Path) -> None:
    options = options_of(ten_images[0].parent, small_model, tmp_path, format="coco")
    with planned(options), pytest.raises(ConfigError, match="another run writes into"), planned(options):
        pass


def test_a_run_and_another_command_do_not_write_into_one_folder(
    ten_images: list[Path], small_model: Path, tmp_path: Path
) -> None:
    options = options_of(ten_images[0].parent, small_model, tmp_path, format="coco")
    with planned(options), pytest.raises(ConfigError, match="another run is writing into"), locked_folder(tmp_path):
        pass
    with locked_folder(tmp_path), pytest.raises(ConfigError, match="another run is writing into"), planned(options):
        pass


@pytest.mark.parametrize("after", [0, 1, 2])
def test_a_folder_that_is_removed_in_mid_run_is_an_error(
    after: int, ten_images: list[Path], small_model: Path, tmp_path: Path
) -> None:
    options = options_of(ten_images[0].parent, small_model, tmp_path / "run", format="coco")

    def on_event(event: Event) -> None:
        if event.kind == "done" and event.shard == after:  # the last one, too: its part is lost
            (tmp_path / "run").rename(tmp_path / "moved")

    with pytest.raises(OutputError, match="run was removed, renamed or replaced"), planned(options) as plan:
        run_here(plan, on_event)
    assert len(parts(tmp_path / "moved")) == after + 1
    assert [path.name for path in tmp_path.iterdir()] == ["moved"]


def test_a_full_disk_is_one_line_and_leaves_no_part(
    ten_images: list[Path], small_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = options_of(ten_images[0].parent, small_model, tmp_path, format="coco")
    fsync, calls = os.fsync, []

    def full(descriptor: int) -> None:
        if S_ISREG(os.fstat(descriptor).st_mode):  # folders are synced, too
            calls.append(descriptor)
        if len(calls) == 3:  # the manifest, the first part, the second part
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match=r"part-00000001.json cannot be written \(No space left on device\)"):
        run_in_process(options)
    assert parts(tmp_path) == ["part-00000000.json"]
    assert not list(tmp_path.glob(".part-*"))
    plan, _ = run_in_process(options)
    assert plan.finished == {0}
    assert len(parts(tmp_path)) == 3


def test_an_output_that_cannot_be_written_or_read_is_reported_before_the_work(
    ten_images: list[Path], small_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = options_of(ten_images[0].parent, small_model, tmp_path, format="coco")
    run_in_process(options)
    opened = Path.open

    def refused(self: Path, *arguments: Any, **more: Any) -> Any:
        if self.name.startswith("part-"):
            raise PermissionError(errno.EACCES, "Permission denied", str(self))
        return opened(self, *arguments, **more)

    with monkeypatch.context() as patch:  # root may read and write everything
        patch.setattr(Path, "open", refused)
        with pytest.raises(OutputError, match=r"part-.*json cannot be read \(Permission denied\)"), planned(options):
            pass
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(OutputError, match=r"cannot be written \(Permission denied\); choose another"), planned(options):
        pass


def test_a_file_system_without_locks_does_not_stop_a_run(
    ten_images: list[Path], small_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", unknown)
    run_in_process(options_of(ten_images[0].parent, small_model, tmp_path, format="coco"))
    assert len(parts(tmp_path)) == 3


def test_an_output_that_cannot_be_written_is_one_line(
    ten_images: list[Path], small_model: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    for out, reason in (("file", "is a file; expected the name of a folder"), ("file/out", "cannot be written")):
        with pytest.raises(CondInstError, match=reason):
            run_in_process(options_of(ten_images[0].parent, small_model, tmp_path / out, format="coco"))
