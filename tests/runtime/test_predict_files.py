"""Prediction of files from Python; `tests/cli/test_predict.py` runs the same through the command."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from condinst_deploy import FileOutputs, PredictFilesOptions, Predictor, PredictorOptions, predict_files
from condinst_deploy.contract import ModelManifest
from condinst_deploy.errors import BackendError, CondInstError, ConfigError
from condinst_deploy.model.checkpoints import save_model
from condinst_deploy.runtime.label_files import Format
from condinst_deploy.runtime.predict_files import PredictFilesReports
from condinst_deploy.runtime.recording import Destination, record
from tests.support.models import manifest_of, noise_image, seeded_model

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
    notes: list[str] = []
    reports = PredictFilesReports(lambda predictor, count: started.append(count), notes.append, seen.append)
    done = predict_files(slim_checkpoint, images, options, reports)
    assert notes == ["score thresholds: class a 0.000, class b 1.000, class c 1.000"]
    assert done.class_thresholds == (("class a", 0.0), ("class b", 1.0), ("class c", 1.0))
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


def test_class_names_of_a_checkpoint_are_shown_safely_beside_their_thresholds(images: Path, tmp_path: Path) -> None:
    names = ("\x1b[2Jcat", "dog ", "ox")
    save_model(tmp_path / "odd.pth", seeded_model(), replace(manifest_of(), class_names=names))
    options = PredictFilesOptions(tmp_path / "out", PredictorOptions(device="cpu"), thresholds=OnlyFirstClass())
    notes: list[str] = []
    predict_files(tmp_path / "odd.pth", images / "0.png", options, noted(notes))
    assert r"score thresholds: \x1b[2Jcat 0.000, 'dog ' 1.000, ox 1.000" in notes


def test_a_model_among_the_images_is_refused_before_anything_is_written(slim_checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is a model by its name and was given as an image"):
        predict_files(slim_checkpoint, [slim_checkpoint], PredictFilesOptions(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def noted(notes: list[str]) -> PredictFilesReports:
    return PredictFilesReports(on_note=notes.append)


ALL = FileOutputs(formats=frozenset(Format), instances=True, crops=True)


def test_the_threshold_that_nothing_is_above_is_named(images: Path, slim_checkpoint: Path, tmp_path: Path) -> None:
    for threshold, draw, said in (
        (0.999, 0.3, "no detection above the score threshold 0.999; --score-threshold keeps lower scores"),
        (None, 0.999, "none above 0.999 drawn; --draw-threshold draws detections of lower scores"),
    ):
        notes: list[str] = []
        options = PredictFilesOptions(
            tmp_path / f"out{draw}",
            PredictorOptions(device="cpu", score_threshold=threshold),
            outputs=FileOutputs(draw_threshold=draw),
        )
        predict_files(slim_checkpoint, images, options, noted(notes))
        assert notes == [said]


def test_labels_for_which_there_is_no_room_are_counted_in_one_line(
    images: Path, slim_checkpoint: Path, tmp_path: Path
) -> None:
    notes: list[str] = []
    options = PredictFilesOptions(
        tmp_path / "out", PredictorOptions(device="cpu", score_threshold=0), outputs=FileOutputs(draw_threshold=0)
    )
    done = predict_files(slim_checkpoint, images, options, noted(notes))
    assert done.drawn == done.detections > 100
    assert 0 < done.unlabelled < done.drawn
    assert notes == [
        f"{done.unlabelled} of {done.drawn} drawn detections without a label, for which there was no room: labels cover"
        " at most a fifth of an image. A higher --draw-threshold draws fewer detections"
    ]


def test_a_run_that_finishes_no_image_leaves_the_results_of_an_earlier_one(
    images: Path, slim_checkpoint: Path, tmp_path: Path
) -> None:
    out, notes = tmp_path / "out", list[str]()
    options = PredictFilesOptions(out, PredictorOptions(device="cpu"), ALL)
    predict_files(slim_checkpoint, images / "0.png", options)
    before = content(out)
    assert {"detections.json", "images.json", "yolo/classes.txt", "yolo/0.txt", "labelme/0.json"} < set(before)
    done = predict_files(slim_checkpoint, images / "torn.png", options, noted(notes))
    assert [entry["file_name"] for entry in done.skipped] == [str(images / "torn.png")]
    assert (done.images, done.detections) == ([], 0)
    assert content(out) == before
    assert notes == [f"no image was finished: {out / 'detections.json'} of an earlier run stays as it is"]


def test_files_of_an_earlier_run_beside_new_results_are_named(
    images: Path, slim_checkpoint: Path, tmp_path: Path
) -> None:
    out, notes = tmp_path / "out", list[str]()
    loose = PredictorOptions(device="cpu")
    crops = FileOutputs(overlays=False, crops=True, formats=frozenset({Format.YOLO}))
    predict_files(slim_checkpoint, images / "0.png", PredictFilesOptions(out, loose, crops))
    found = len(list((out / "crops").iterdir()))
    assert found > 1
    predict_files(slim_checkpoint, images / "1.png", PredictFilesOptions(out, loose), noted(notes))
    (line,) = [note for note in notes if note.startswith("of earlier runs")]
    assert line == (
        f"of earlier runs, not of these results: 2 files in {out / 'yolo'} (0.txt, ...),"
        f" {found} files in {out / 'crops'} (0_001.png, ...)"
    )
    # the same image with fewer detections: its further crops are of the earlier run
    notes.clear()
    fewer = PredictFilesOptions(out, PredictorOptions(device="cpu", max_detections=1), crops)
    predict_files(slim_checkpoint, images / "0.png", fewer, noted(notes))
    (line,) = [note for note in notes if note.startswith("of earlier runs")]
    assert f"{found - 1} file" in line
    assert "yolo" not in line


def test_a_run_that_fails_says_that_its_files_lie_beside_earlier_results(
    images: Path, slim_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, notes = tmp_path / "out", list[str]()
    options = PredictFilesOptions(out, PredictorOptions(device="cpu"))
    predict_files(slim_checkpoint, images / "0.png", options)
    before = (out / "detections.json").read_bytes()

    def broken(predictor: Predictor, paths: Any, destination: Destination, *rest: Any) -> None:
        record(predictor, paths, destination, *rest)
        raise BackendError("the model fails")

    monkeypatch.setattr("condinst_deploy.runtime.predict_files.record", broken)
    with pytest.raises(BackendError):
        predict_files(slim_checkpoint, images / "1.png", options, noted(notes))
    assert notes[-1] == (
        f"this run failed: 1 file of its images lie in {out} beside detections.json or images.json of an earlier run"
    )
    assert (out / "detections.json").read_bytes() == before


def test_what_a_run_wrote_is_no_image_of_the_next_one(images: Path, slim_checkpoint: Path, tmp_path: Path) -> None:
    notes: list[str] = []
    (images / "torn.png").unlink()
    outputs = FileOutputs(instances=True, crops=True)
    options = PredictFilesOptions(images, PredictorOptions(device="cpu", max_detections=1), outputs, recursive=True)
    first = predict_files(slim_checkpoint, images, options)
    before = content(images)
    second = predict_files(slim_checkpoint, images, options, noted(notes))
    assert second.images == first.images
    assert content(images) == before
    assert notes[0] == (
        f"6 images left out where this run writes its own, such as {images / 'crops' / '0_001.png'};"
        " another --out takes all"
    )
    for named in (images / "overlays" / "0.jpg", images / "overlays"):
        with pytest.raises(ConfigError, match=r"is to be read, and this run writes its own files into .*overlays"):
            predict_files(slim_checkpoint, [named], options)
    (tmp_path / "elsewhere").symlink_to(images / "overlays")
    with pytest.raises(ConfigError, match="is to be read"):
        predict_files(slim_checkpoint, tmp_path / "elsewhere", options)
    assert content(images) == before
