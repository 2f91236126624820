"""condinst-client and condinst-triton-repo as commands."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from condinst_deploy.cli.client import main as client_command
from condinst_deploy.cli.triton_repo import main as repository_command
from condinst_deploy.masks import Masks
from condinst_deploy.serving.protocol import BOXES, IMAGE_SIZE, LABELS, RLE_COUNTS, SCORES
from condinst_deploy.serving.triton.repository_settings import ServerSettings
from tests.support.fake_server import Answer, encoded_answer, fake_server
from tests.support.models import SLIM, manifest_of, noise_image

MANIFEST = manifest_of(SLIM)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(client_command, [str(argument) for argument in arguments])


def one_instance(*_: Any) -> Answer:
    return instances(1)


def instances(count: int, size: tuple[int, int] = (24, 32)) -> Answer:
    dense = np.zeros((count, *size), dtype=bool)
    dense[:, 4:20, 8:28] = True
    return encoded_answer(
        {
            BOXES: np.array([[[8, 4, 28, 20]] * count], dtype=np.float32),
            SCORES: np.array([[0.75] * count], dtype=np.float32),
            LABELS: np.array([[1] * count], dtype=np.int32),
            IMAGE_SIZE: np.array([size], dtype=np.int32),
            RLE_COUNTS: [rle["counts"] for rle in Masks.from_dense(dense).rle()],
        }
    )


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for seed in range(2):
        Image.fromarray(noise_image(seed, 24, 32)).save(folder / f"{seed}.png")
    return folder


def test_json_has_a_line_for_each_image(images: Path) -> None:
    with fake_server(one_instance, MANIFEST) as server:
        result = run(server.url, images, "--json")
    assert result.exit_code == 0
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [Path(line["file_name"]).name for line in lines] == ["0.png", "1.png"]
    for number, line in enumerate(lines, 1):
        (entry,) = line["detections"]
        assert (entry["image_id"], entry["bbox"]) == (number, [8.0, 4.0, 20.0, 16.0])
        assert entry["segmentation"]["size"] == [24, 32]


def test_a_place_for_overlays_is_tried_before_the_first_request(images: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with fake_server(one_instance, MANIFEST) as server:
        result = run(server.url, images, "--overlays", tmp_path / "file" / "found")
    assert result.exit_code == 1
    assert result.stderr.startswith("error: ")
    assert "is a file, not a folder" in result.stderr
    assert result.stdout == ""


def test_overlays_are_drawn_on_the_images(images: Path, tmp_path: Path) -> None:
    with fake_server(one_instance, MANIFEST) as server:
        result = run(server.url, images, "--overlays", tmp_path / "found")
    assert result.exit_code == 0
    assert [line.endswith(": 1 instance") for line in result.stdout.splitlines()] == [True, True]
    drawn = sorted((tmp_path / "found").iterdir())
    assert [path.name for path in drawn] == ["000001_0.jpg", "000002_1.jpg"]
    with Image.open(drawn[0]) as overlay:
        assert overlay.size == (640, 480)  # enlarged, so that the label does not hide the image


def test_a_crowds_labels_that_are_left_out_are_counted(images: Path, tmp_path: Path) -> None:
    with fake_server(lambda *_: instances(100), MANIFEST) as server:
        result = run(server.url, images, "--overlays", tmp_path / "found")
    assert result.exit_code == 0
    (line,) = [line for line in result.stderr.splitlines() if "without a label" in line]
    number, _, rest = line.partition(" ")
    room = "for which there was no room: labels cover at most a fifth of an image"
    assert rest == f"of 200 drawn detections without a label, {room}"
    assert 0 < int(number) < 200


def test_an_overlay_too_wide_for_jpeg_is_a_png(tmp_path: Path) -> None:
    Image.new("RGB", (66_000, 3)).save(tmp_path / "wide.png")
    with fake_server(lambda *_: instances(1, (3, 66_000)), MANIFEST) as server:
        result = run(server.url, tmp_path / "wide.png", "--overlays", tmp_path / "found")
    assert result.exit_code == 0, result.stderr
    with Image.open(tmp_path / "found" / "000001_wide.png") as overlay:
        assert overlay.size == (66_000, 3)


def test_an_overlay_needs_the_size_that_the_file_has(images: Path, tmp_path: Path) -> None:
    Image.fromarray(noise_image(0, 48, 64)).save(images / "1.png")
    with fake_server(one_instance, MANIFEST) as server:
        result = run(server.url, images, "--overlays", tmp_path / "found")
    assert result.exit_code == 1
    assert "1.png has 32x24 pixels; expected those of the file" in " ".join(result.stderr.split())
    assert [path.name for path in (tmp_path / "found").iterdir()] == ["000001_0.jpg"]


def test_an_image_that_is_refused_is_named_and_the_status_is_1(images: Path) -> None:
    (images / "2.png").write_text("no image")

    def answer(number: int, path: str, body: bytes) -> Answer:
        return Answer(400, b'{"error":"not an image"}') if b"no image" in body else one_instance()

    with fake_server(answer, MANIFEST) as server:
        result = run(server.url, images, "--json")
    assert result.exit_code == 1
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert ["error" in line for line in lines] == [False, False, True]
    assert "not an image" in lines[2]["error"]


def test_health_is_a_sentence_or_json_and_a_status(images: Path) -> None:
    with fake_server(one_instance, MANIFEST) as server:
        healthy, as_json = run(server.url, "--health"), run(server.url, "--health", "--json")
    with fake_server(lambda *_: Answer(500, b'{"error":"the stub is dead"}'), MANIFEST) as server:
        dead = run(server.url, "--health", "--retries", 0)
    assert (healthy.exit_code, healthy.stdout) == (0, "condinst answers\n")
    assert json.loads(as_json.stdout)["answers"] is True
    assert dead.exit_code == 1
    assert dead.stdout.startswith("condinst does not answer: ")
    assert "the stub is dead" in dead.stdout


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["http://127.0.0.1:1"], "no images were named"),
        (["nowhere", "a.jpg"], "is not an address"),
        (["http://127.0.0.1:1", "a.jpg", "--score-threshold", "2"], "expected a number from 0 to 1"),
        (["http://127.0.0.1:1", "a.jpg", "--in-flight", "0"], "1 to 1,024 images in flight"),
        (["http://127.0.0.1:1", "a.jpg", "--classes", " ,"], "expected names of classes with commas between them"),
    ],
)
def test_wrong_usage_is_status_2(arguments: list[str], reason: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert reason in " ".join(result.stderr.split())


def test_nobody_there_is_status_1(images: Path) -> None:
    with fake_server(one_instance, MANIFEST) as server:
        pass
    result = run(server.url, images, "--retries", 0)
    assert result.exit_code == 1
    assert "does not answer" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_repository_is_written_with_its_limits(slim_onnx: Path, tmp_path: Path) -> None:
    arguments = ["--model", slim_onnx, "--out", tmp_path / "repo", "--max-image-mb", 1, "--max-megapixels", 2, "--json"]
    result = CliRunner().invoke(repository_command, [str(argument) for argument in arguments])
    assert result.exit_code == 0
    assert json.loads(result.stdout)["path"] == str(tmp_path / "repo")
    limits = ServerSettings.read(tmp_path / "repo/condinst/1").limits
    assert (limits.image_bytes, limits.image_pixels) == (2**20, 2_000_000)
    guide = (tmp_path / "repo/README.md").read_text()
    assert "| 1,048,576 |" in guide
    assert "| 2,000,000 |" in guide


MANY_DIGITS = "9" * 4299
OPTIONS = [("--layout", "two"), ("--cuda-graphs",), ("--instances", "0")]
OPTIONS += [(name, MANY_DIGITS) for name in ("--max-image-mb", "--max-megapixels", "--max-queue", "--max-batch")]


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option[0])
def test_options_of_a_repository_that_cannot_be_used(option: tuple[str, ...], slim_onnx: Path, tmp_path: Path) -> None:
    arguments = ["--model", str(slim_onnx), "--out", str(tmp_path / "repo"), *option]
    result = CliRunner().invoke(repository_command, arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
    assert len(result.stderr) < 300
    assert not (tmp_path / "repo").exists()


def test_overlays_are_not_written_among_the_images_that_are_read(images: Path) -> None:
    before = sorted(images.iterdir())
    with fake_server(one_instance, MANIFEST) as server:
        result = run(server.url, images, "--overlays", images / ".." / images.name)
    assert result.exit_code == 2
    assert "0.png is to be read, and this run writes its own files into" in result.stderr
    assert sorted(images.iterdir()) == before
