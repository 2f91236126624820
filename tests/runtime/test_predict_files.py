"""Prediction of files from Python; `tests/cli/test_predict.py` runs the same through the command."""

import json
from pathlib import Path

import pytest
from PIL import Image

from condinst_deploy import FileOutputs, PredictFilesOptions, Predictor, PredictorOptions, predict_files
from condinst_deploy.contract import ModelManifest
from condinst_deploy.errors import CondInstError, ConfigError
from condinst_deploy.runtime.label_files import Format
from condinst_deploy.runtime.predict_files import PredictFilesReports
from tests.support.models import noise_image

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    for seed in range(2):
        Image.fromarray(noise_image(seed, 128, 200)).save(tmp_path / "images" / f"{seed}.png")
    (tmp_path / "images" / "torn.png").write_bytes(b"no image")
    return tmp_path / "images"


class OnlyFirstClass:
    """Thresholds that nothing but the first class can be above."""

    def per_label(self, manifest: ModelManifest) -> tuple[float, ...]:
        return (0.0, *([1.0] * (len(manifest.class_names) - 1)))


def test_one_call_writes_what_the_options_ask_for(images: Path, slim_checkpoint: Path, tmp_path: Path) -> None:
    seen: list[CondInstError | None] = []
    started: list[int] = []
    options = PredictFilesOptions(
        tmp_path / "out",
        PredictorOptions(device="cpu"),
        FileOutputs(overlays=False, formats=frozenset({Format.YOLO})),
        OnlyFirstClass(),
    )
    reports = PredictFilesReports(lambda predictor, count: started.append(count), on_image=seen.append)
    done = predict_files(slim_checkpoint, images, options, reports)
    with Predictor(slim_checkpoint, device="cpu") as predictor:
        expected = predictor([images / "0.png", images / "1.png"])
    first = sum(int((found.labels == 0).sum()) for found in expected)
    assert 0 < first < sum(map(len, expected))
    assert (done.folder, done.detections, done.drawn, done.interrupted) == (tmp_path / "out", first, 0, False)
    assert [entry["file_name"] for entry in done.skipped] == [str(images / "torn.png")]
    assert started == [3]
    assert [error is None for error in seen] == [True, True, False]
    written = json.loads((tmp_path / "out" / "detections.json").read_text())
    assert {entry["category_id"] for entry in written} == {1}
    assert len(written) == first
    names = sorted(path.name for path in (tmp_path / "out").rglob("*") if path.is_file())
    assert names == ["0.txt", "1.txt", "classes.txt", "detections.json", "images.json"]
    assert (tmp_path / "out" / "yolo" / "classes.txt").read_text() == "class a\nclass b\nclass c\n"


def test_a_model_among_the_images_is_refused_before_anything_is_written(slim_checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is a model by its name and was given as an image"):
        predict_files(slim_checkpoint, [slim_checkpoint], PredictFilesOptions(tmp_path / "out"))
    assert not (tmp_path / "out").exists()
