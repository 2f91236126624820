"""The command as it is typed, on slim models; no metric of a time is asserted."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from tests.support.models import noise_image

COMMAND = (sys.executable, "-c", "from condinst_deploy.cli.benchmark import main; main()")
QUICK = ("--device", "cpu", "--threads", "1", "--repeat", "2", "--warmup", "1")


def benchmark(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [*COMMAND, *arguments], cwd=cwd, env=os.environ, capture_output=True, text=True, timeout=300, check=False
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done


def error_line(done: subprocess.CompletedProcess[str]) -> str:
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    return line


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for seed, size in enumerate(((128, 200), (90, 60), (128, 200))):
        Image.fromarray(noise_image(seed, *size)).save(folder / f"{seed}.png")
    return folder


def test_two_models_on_given_images_as_json_and_as_a_plot(
    slim_checkpoint: Path, slim_onnx: Path, images: Path, tmp_path: Path
) -> None:
    (images / "broken.png").write_bytes(b"no image")
    settings = ("--batch", "1,2", "--concurrency", "1,2", "--json", "--plot", "plots/a.png")
    done = benchmark("pictures", "--model", slim_onnx, "--against", slim_checkpoint, *QUICK, *settings, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    assert result["images"]["paths"] == [f"pictures/{i}.png" for i in (0, 1, 2, "broken")]
    assert next(said for said in result["remarks"] if "broken" in said).startswith("left out: pictures/broken.png")
    assert [(m["model"], m["loaded"]["backend"]) for m in result["models"]] == [
        (str(slim_onnx), "onnxruntime"),
        (str(slim_checkpoint), "torch"),
    ]
    stages = ["decode", "pre", "network", "post", "end to end"]
    for model in result["models"]:
        assert [(at["batch"], at["calls"], list(at["stages"])) for at in model["stages"]] == [
            (1, 2, stages),
            (2, 2, stages),
        ]
        for at in model["stages"]:
            assert at["detections"] > 0
            assert all(0 < t["median_ms"] <= t["p95_ms"] <= t["p99_ms"] for t in at["stages"].values())
        assert [(at["batch"], at["concurrency"]) for at in model["serving"]] == [(1, 1), (1, 2), (2, 1), (2, 2)]
        assert all(at["images_per_second"] > 0 for at in model["serving"])
        assert model["memory"]["before_loading_mb"] < model["memory"]["peak_mb"]
        assert (model["loaded"]["machine"]["cores"], model["loaded"]["machine"]["threads"]) == (1, 1)
    # both find the same, so both did the same work
    found = [[at["detections"] for at in model["stages"]] for model in result["models"]]
    assert found[0] == found[1]
    for at in result["ratios"]:
        assert (at["pairs"], list(at["stages"])) == (2, stages)
        assert all(0 < ratio["low"] <= ratio["median"] <= ratio["high"] for ratio in at["stages"].values())
    with Image.open(tmp_path / "plots" / "a.png") as plot:
        assert plot.format == "PNG"
        assert min(plot.size) > 200


def test_one_model_on_generated_images_as_tables(slim_checkpoint: Path, tmp_path: Path) -> None:
    done = benchmark("--model", slim_checkpoint, "--size", "160x96", *QUICK, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"{slim_checkpoint}: torch, float32" in done.stdout
    for words in ("resize and pad", "network", "masks and RLE", "end to end", "images/s", "host memory: peak"):
        assert words in done.stdout
    assert "decode" not in done.stdout
    assert "note: p99 of 2 calls" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_fast_pixels_are_timed_as_users_run_them(slim_onnx: Path, images: Path, tmp_path: Path) -> None:
    arguments = ("--pixels", "fast", "--batch", "2", "--json", *QUICK)
    done = benchmark("pictures", "--model", slim_onnx, *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    assert result["settings"]["pixels"] == "fast"
    (at,) = result["models"][0]["stages"]
    assert list(at["stages"]) == ["decode", "pre", "network", "post", "end to end"]
    assert at["detections"] > 0


@pytest.mark.parametrize(
    ("arguments", "reason", "status"),
    [
        (("--model", "{model}", "--against", "none.onnx"), "no model at none.onnx", 1),
        (("none*.jpg", "--model", "{model}"), "nothing matches none*.jpg", 1),
        (("missing.jpg", "--model", "{model}"), "no image at missing.jpg", 1),
        (("text.txt", "--model", "{model}"), "no image at text.txt", 1),
        (("--model", "{model}", "--batch", "1;2"), "--batch is '1;2'; expected whole numbers", 2),
        (("--model", "{model}", "m.onnx"), "m.onnx is a model by its name and was given as an image", 2),
        (("--model", "{model}", "memory://b/a.png"), "a URL was given as an image; expected files on the disk", 2),
        (("--model", "{model}", "--size", "999999999x9"), "expected numbers of at least 1 and at most 65535", 2),
        (("--model", "{model}", "--concurrency", "0"), "concurrency is 0; expected numbers of at least 1", 2),
        (("--model", "{model}", "--size", "big"), "--size is 'big'; expected WIDTHxHEIGHT", 2),
        (("--model", "{model}", "--threads", "4096"), "--threads is 4096; this process may use", 2),
        pytest.param(
            ("--model", "{model}", "--pixels", "cuda"),
            "pixels='cuda' decodes and resizes on an NVIDIA GPU",
            2,
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU that PyTorch can use"),
        ),
        (("--model", "{model}", "--plot", "a.svg"), "--plot is a.svg; expected the name of an image", 2),
    ],
)
def test_what_cannot_be_done_is_one_line(
    arguments: tuple[str, ...], reason: str, status: int, images: Path, slim_checkpoint: Path, tmp_path: Path
) -> None:
    before = sorted(tmp_path.rglob("*"))
    filled_in = [argument.format(model=slim_checkpoint) for argument in arguments]
    done = benchmark(*filled_in, "--json", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (status, "")
    assert reason in error_line(done)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("arguments", [(), ("--model", "a.pth", "--repeat", "many"), ("--model", "a.pth", "--wings")])
def test_wrong_usage_exits_with_two(arguments: tuple[str, ...], tmp_path: Path) -> None:
    done = benchmark(*arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Usage" in done.stderr
