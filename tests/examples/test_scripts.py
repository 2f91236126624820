"""The scripts in examples/ run as their first lines say."""

import json
import re
import runpy
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import supervision as sv
from PIL import Image

from condinst_deploy import Predictor
from condinst_deploy.runtime.observer import STAGES
from tests.examples.conftest import ROOT

pytestmark = pytest.mark.usefixtures("one_thread")

EXAMPLES = ROOT / "examples"


def run(monkeypatch: pytest.MonkeyPatch, script: str, *arguments: Path) -> dict[str, Any]:
    monkeypatch.setattr(sys, "argv", [script, *map(str, arguments)])
    return runpy.run_path(str(EXAMPLES / script), run_name="__main__")


@pytest.mark.parametrize("script", sorted(path.name for path in EXAMPLES.glob("*.py")))
@pytest.mark.parametrize(("option", "status"), [("--help", 0), ("--nonsense", 2)])
def test_help_and_wrong_usage_print_the_usage(
    script: str, option: str, status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [script, option])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(EXAMPLES / script), run_name="__main__")
    assert ended.value.code == status
    text = "".join(capsys.readouterr())
    assert text.startswith(f"usage: {script}")
    assert status or f"python examples/{script}" in text  # the first lines of the script


def test_predict(
    shapes_model: Path,
    shapes_images: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run(monkeypatch, "predict.py", shapes_model, shapes_images[0], tmp_path / "overlay.png")
    lines = capsys.readouterr().out.splitlines()
    with Predictor(shapes_model) as predictor:
        (detections,) = predictor(shapes_images[0])
    assert len(lines) == len(detections) > 0
    assert lines[0].startswith(f"{detections.names[0]} {detections.scores[0]:.2f} at [")
    assert lines[0].endswith(f" {detections.masks.areas[0]} pixels")
    with Image.open(tmp_path / "overlay.png") as overlay, Image.open(shapes_images[0]) as image:
        assert overlay.size == image.size
        assert not np.array_equal(np.asarray(overlay), np.asarray(image.convert("RGB")))


def test_a_metric_of_a_stream(
    shapes_model: Path,
    shapes_images: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for path in shapes_images:
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "damaged.png").write_bytes(shapes_images[0].read_bytes()[:300])
    run(monkeypatch, "stream_metric.py", shapes_model, tmp_path)
    shown = capsys.readouterr()
    with Predictor(shapes_model, score_threshold=0.5) as predictor:
        found = predictor([str(path) for path in shapes_images])
    covered = sum(int(areas[np.array(one.names) == "star"].sum()) for one in found for areas in [one.masks.areas])
    assert covered > 0
    assert f"star: {covered / (len(found) * 192 * 192):.1%}" in shown.out.splitlines()
    assert "damaged.png" in shown.err


def test_every_stage_of_every_image_is_observed(
    shapes_model: Path,
    shapes_images: list[Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run(monkeypatch, "observe_stages.py", shapes_model, shapes_images[0].parent)
    seen: Counter[str] = Counter()
    for stage, count in re.findall(r"^(\w+): (\d+) images in at most", capsys.readouterr().out, flags=re.M):
        seen[stage] += int(count)
    assert seen == dict.fromkeys(STAGES, len(shapes_images))


def moving(image: npt.NDArray[np.uint8], frames: int) -> list[npt.NDArray[np.uint8]]:
    """A window of 160x160 that moves over the image by two pixels a frame."""
    return [image[i : 160 + i, 2 * i : 160 + 2 * i] for i in range(frames)]


def test_a_video_is_tracked(
    shapes_model: Path,
    shapes_images: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    source, target = tmp_path / "source.mp4", tmp_path / "target.mp4"
    frames = moving(np.asarray(Image.open(shapes_images[0]).convert("RGB")), 12)
    with sv.VideoSink(str(source), sv.VideoInfo(width=160, height=160, fps=10, total_frames=12)) as sink:
        for frame in frames:
            sink.write_frame(frame[..., ::-1].copy())
    run(monkeypatch, "track_video.py", shapes_model, source, target)
    tracks = [set(json.loads(line[line.index("[") :])) for line in capsys.readouterr().out.splitlines()]
    assert len(tracks) == len(frames)
    # objects keep their numbers: two of the middle of the video are there at its end, too
    assert len(tracks[4] & tracks[-1]) >= 2
    drawn = list(sv.get_video_frames_generator(str(target)))
    assert [frame.shape for frame in drawn] == [(160, 160, 3)] * len(frames)
    assert np.abs(drawn[-1].astype(int) - frames[-1][..., ::-1]).mean() > 5  # masks are drawn


def test_the_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every code cell, in order, in the folder that the notebook says; it is stored without outputs."""
    monkeypatch.chdir(EXAMPLES)
    cells = [cell for cell in json.loads(Path("quickstart.ipynb").read_text())["cells"] if cell["cell_type"] == "code"]
    namespace: dict[str, Any] = {}
    for cell in cells:
        assert (cell["outputs"], cell["execution_count"]) == ([], None)
        exec(compile("".join(cell["source"]), "quickstart.ipynb", "exec"), namespace)
    found = namespace["found"]
    assert len(found) == len(namespace["images"]) == 4
    assert sum(map(len, found)) > 0
    assert namespace["dense"].sum(axis=(1, 2)).tolist() == found[0].masks.areas.tolist()
