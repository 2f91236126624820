"""`condinst-predict` and `Predictor` on images behind URLs."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from condinst_deploy import ConfigError, ImageError, Predictor
from condinst_deploy.imaging.decode import rgb_from
from condinst_deploy.imaging.image_files import existing_sources
from condinst_deploy.imaging.image_urls import ImageUrl
from condinst_deploy.runtime.label_files import Format
from condinst_deploy.runtime.predict_files import PredictedFiles, PredictFilesOptions, predict_files
from condinst_deploy.runtime.predictor_options import PredictorOptions
from condinst_deploy.runtime.recording import FileOutputs
from condinst_deploy.support.remote_files import joined, public_url
from tests.support.images import png
from tests.support.storages import FailingStorage, failing_storage

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return the seconds between attempts to read; no test waits for them."""
    seconds: list[float] = []
    monkeypatch.setattr(time, "sleep", seconds.append)
    return seconds


@pytest.fixture
def memory(pauses: list[float]) -> Iterator[Any]:
    with failing_storage() as storage:
        for seed, name in enumerate(("b/1.png", "b/2.png", "b/sub/3.png")):
            storage.pipe_file(f"/{name}", png(seed))
        storage.pipe_file("/b/notes.txt", b"no image")
        storage.pipe_file("/b/._1.png", b"no image")
        yield storage


def predicted(model: Path, images: list[str], out: Path, **changes: Any) -> PredictedFiles:
    options = PredictFilesOptions(out, PredictorOptions(device="cpu"), **changes)
    return predict_files(model, images, options)


def names(*sources: str, recursive: bool = False) -> list[str]:
    return [str(file) for file in existing_sources(sources, recursive=recursive)]


def test_folders_patterns_and_files_behind_urls(memory: Any, tmp_path: Path) -> None:
    assert names("memory://b") == names("memory://b/") == ["memory:///b/1.png", "memory:///b/2.png"]
    assert names("memory://b", recursive=True) == [f"memory:///b/{name}.png" for name in ("1", "2", "sub/3")]
    assert names("memory://b/**/[23].png") == ["memory:///b/2.png", "memory:///b/sub/3.png"]
    assert names("memory://b/1.png", "memory://b/missing.png") == ["memory://b/1.png", "memory://b/missing.png"]
    (tmp_path / "x.png").write_bytes(png(0))
    assert existing_sources([f"file://{tmp_path}/x.png", f"file://{tmp_path}"]) == [tmp_path / "x.png"] * 2


def test_a_file_url_is_decoded_as_a_browser_writes_it(tmp_path: Path) -> None:
    folder = tmp_path / "my images" / "ä"
    folder.mkdir(parents=True)
    image = folder / "a b.png"
    image.write_bytes(png(0))
    url = image.as_uri()
    assert "%20" in url
    assert existing_sources([url, folder.as_uri(), url.replace("file:///", "file://localhost/")]) == [image] * 3
    assert existing_sources([f"{folder.as_uri()}/*.png"]) == [image]
    assert (rgb_from(url) == rgb_from(image)).all()
    assert joined("elsewhere", url) == str(image)
    literal = folder / "100%25.png"  # a file of the very name comes first
    literal.write_bytes(png(1))
    assert existing_sources([f"file://{literal}"]) == [literal]
    with pytest.raises(ImageError, match=r"no image at .*/missing one\.png"):
        existing_sources([f"{folder.as_uri()}/missing%20one.png"])


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("memory://b/4.png", "no image at memory://b/4.png; expected images, folders, patterns or URLs"),
        ("memory://none", "no image at memory://none; expected"),
        ("memory://b/*.gif", r"nothing matches memory://b/\*.gif"),
        ("failing://forbidden/1.png", r"failing://forbidden/1.png cannot be read \(Access Denied\)$"),
        ("failing://forbidden", r"failing://forbidden cannot be read \(Access Denied\)$"),
        ("failing://forbidden/*.png", r"failing://forbidden cannot be read \(Access Denied\)$"),
        ("failing://me:secret@no-such-bucket/1.png", r"^failing://no-such-bucket/1.png cannot be read \(The specified"),
    ],
)
def test_nothing_to_predict_behind_a_url_is_said_before_the_model_is_loaded(
    url: str, reason: str, memory: Any, tmp_path: Path
) -> None:
    with pytest.raises(ImageError, match=reason):
        predicted(tmp_path / "none.onnx", [url], tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("nothing://b/1.png", r"^nothing://b/1.png cannot be opened \(Protocol not known: nothing\); expected a URL"),
        ("wandb://b/1.png", r"^wandb://b/1.png needs one more library .*; pip install it, or"),
        ("smb://b/1.png", r"^smb://b/1.png needs one more library .*; pip install 'fsspec\[smb\]', or"),
    ],
)
def test_a_protocol_without_its_library_is_wrong_usage(url: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        names(url)


def test_a_storage_that_cannot_be_reached_is_no_wrong_usage() -> None:
    with pytest.raises(ImageError, match=r"^ftp://127\.0\.0\.1:1/a\.png cannot be reached \("):
        names("ftp://me:secret@127.0.0.1:1/a.png")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("s3://me:se@cret@b/1.png", "s3://b/1.png"),
        ("https://h/a.png?X-Amz-Signature=f00&X-Amz-Date=1", "https://h/a.png?X-Amz-Signature=...&X-Amz-Date=1"),
        ("https://h/a.png?id=3&sig=f%2F00#x", "https://h/a.png?id=3&sig=...#x"),
        ("https://h/a.png?sv=1&X-Goog-Credential=me", "https://h/a.png?sv=1&X-Goog-Credential=..."),
        ("https://h/a@b.png", "https://h/a@b.png"),
        ("s3://b/a?.png", "s3://b/a?.png"),
    ],
)
def test_messages_and_results_hold_no_secret_of_a_url(url: str, shown: str) -> None:
    assert public_url(url) == shown


def test_what_a_library_says_holds_no_secret_either(memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    url = "memory://b/1.png?sig=f00"

    def fail(*_: object, **__: object) -> None:
        raise OSError(f"403, url=URL('{url}')")

    monkeypatch.setattr("fsspec.core.url_to_fs", fail)
    with pytest.raises(ImageError, match=r"^memory://b/1\.png\?sig=\.\.\. .*sig=\.\.\.'\)\)$"):
        names(url)


def test_without_fsspec_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(ConfigError, match=r"^s3://b/1.png: .*pip install 'condinst-deploy\[urls\]'"):
        names("s3://b/1.png")


def test_images_behind_urls_give_what_files_give(memory: Any, slim_onnx: Path, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    for seed in (0, 1):
        (tmp_path / "disk" / f"{seed + 1}.png").write_bytes(png(seed))
    outputs = FileOutputs(formats=frozenset({Format.LABELME, Format.YOLO}), crops=True)
    far = predicted(slim_onnx, ["memory://b"], tmp_path / "far", outputs=outputs)
    near = predicted(slim_onnx, [str(tmp_path / "disk")], tmp_path / "near", outputs=outputs)
    assert far.detections == near.detections > 0
    assert [image["file_name"] for image in far.images] == ["memory:///b/1.png", "memory:///b/2.png"]
    for name in ("detections.json", "overlays/1.jpg", "overlays/2.jpg", "yolo/1.txt"):
        assert (tmp_path / "far" / name).read_bytes() == (tmp_path / "near" / name).read_bytes()
    assert json.loads((tmp_path / "far" / "labelme" / "1.json").read_text())["imagePath"] == "memory:///b/1.png"
    with Predictor(slim_onnx, device="cpu") as predictor:
        (from_list,) = predictor(["memory://b/1.png"])
        (streamed,) = predictor.stream(["memory://b/1.png"])
    assert streamed.detections is not None
    assert from_list.to_coco(1) == streamed.detections.to_coco(1)


def test_what_a_storage_does_not_give_is_skipped_with_its_reason(
    memory: Any, pauses: list[float], slim_onnx: Path, tmp_path: Path
) -> None:
    memory.pipe_file("/b/truncated.png", png(3))
    bad = ("b/truncated.png", "forbidden/1.png", "reset/1.png", "b/missing.png")
    urls = ["failing://b/1.png", *(f"failing://{name}" for name in bad)]
    done = predicted(slim_onnx, urls, tmp_path / "out", outputs=FileOutputs(overlays=False))
    assert [image["file_name"] for image in done.images] == ["failing://b/1.png"]
    assert {entry["file_name"] for entry in done.skipped} == set(urls[1:])
    reasons = [entry["error"] for entry in done.skipped]
    assert "failing://b/truncated.png cannot be decoded" in reasons[0]
    assert reasons[1:] == [
        "failing://forbidden/1.png cannot be read (Access Denied)",
        "failing://reset/1.png cannot be read (the connection was reset)",
        "no image at failing://b/missing.png",
    ]
    attempts = {name: FailingStorage.reads.count(f"/{name}") for name in bad}
    assert attempts == {"b/truncated.png": 1, "forbidden/1.png": 1, "reset/1.png": 3, "b/missing.png": 1}
    assert pauses == [0.5, 1.0]


@pytest.mark.parametrize(
    ("url", "stem"),
    [
        ("s3://b/a/photo.1.jpg", "photo.1"),
        ("https://host/a/photo.jpg?size=a/b.png#c", "photo"),
        ("https://host/", "image"),
        ("s3://b/..", ".."),
        ("s3://b/a\0.jpg", "a"),
    ],
)
def test_the_stem_of_a_url_is_a_file_s_name(url: str, stem: str) -> None:
    assert ImageUrl(url).stem == stem


def test_the_command_reads_urls(slim_onnx: Path, tmp_path: Path) -> None:
    """`local://` is fsspec's file system of the disk."""
    (tmp_path / "a.png").write_bytes(png(0))
    arguments: list[str | Path] = [
        f"local://{tmp_path}/a.png",
        f"local://{tmp_path}/b.png",
        "--model",
        slim_onnx,
        "--out",
        "out",
    ]
    command: list[str | Path] = [
        Path(sys.executable).parent / "condinst-predict",
        *arguments,
        "--device",
        "cpu",
        "--json",
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    summary = json.loads(done.stdout)
    assert (done.returncode, summary["images"]) == (1, 1)
    assert summary["skipped"] == [
        {"file_name": f"local://{tmp_path}/b.png", "error": f"no image at local://{tmp_path}/b.png"}
    ]
    assert "Traceback" not in done.stderr
