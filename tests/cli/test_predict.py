import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from condinst_deploy.runtime.predictor import Predictor
from condinst_deploy.runtime.recording import file_stems
from tests.support.models import noise_image

COMMAND = Path(sys.executable).parent / "condinst-predict"
SIZES = {"a.png": (128, 200), "b.bmp": (90, 60), "c.png": (100, 300)}


pytestmark = pytest.mark.usefixtures("one_thread")


def predict(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [COMMAND, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done


def error_line(done: subprocess.CompletedProcess[str]) -> str:
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    return line


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def loaded(path: Path) -> Any:
    return json.loads(path.read_text())


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for seed, (name, size) in enumerate(SIZES.items()):
        Image.fromarray(noise_image(seed, *size)).save(folder / name)
    return folder


def test_a_folder_becomes_overlays_and_coco_results(images: Path, slim_checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "results" / "overlays").mkdir(parents=True)
    for name in ("a.jpg", "earlier.jpg"):  # of a run before: one is replaced, one stays
        (tmp_path / "results" / "overlays" / name).write_text("earlier")
    done = predict("pictures", "--model", slim_checkpoint, "--device", "cpu", cwd=tmp_path)
    assert done.returncode == 0
    out = tmp_path / "results"
    assert files(out) == [
        "detections.json",
        "images.json",
        *(f"overlays/{name}.jpg" for name in ("a", "b", "c", "earlier")),
    ]
    assert (out / "overlays" / "earlier.jpg").read_text() == "earlier"
    assert loaded(out / "images.json")["images"] == [
        {
            "id": i,
            "file_name": f"pictures/{name}",
            "height": height,
            "width": width,
            "overlay": f"overlays/{name[0]}.jpg",
        }
        for i, (name, (height, width)) in enumerate(SIZES.items(), start=1)
    ]
    with Predictor(slim_checkpoint, device="cpu") as predictor:
        expected = predictor(images)
        categories = [{"id": i, "name": f"class {n}"} for i, n in zip((1, 2, 3), "abc", strict=True)]
    results = loaded(out / "detections.json")
    assert [entry["image_id"] for entry in results] == [
        i for i, d in enumerate(expected, start=1) for _ in range(len(d))
    ]
    assert done.stdout == f"{len(results)} detections in 3 images, 0 skipped: {out}\n"
    assert f"{slim_checkpoint} (condinst-deploy checkpoint, ResNet-50, 3 classes): torch on cpu" in done.stderr

    ground_truth = COCO(str(out / "images.json"))
    assert ground_truth.loadCats(ground_truth.getCatIds()) == categories
    coco = ground_truth.loadRes(str(out / "detections.json"))
    for i, detections in enumerate(expected, start=1):
        entries = coco.loadAnns(coco.getAnnIds(imgIds=[i]))
        np.testing.assert_allclose([e["score"] for e in entries], detections.scores, atol=2e-5)
        assert [e["category_id"] for e in entries] == (detections.labels + 1).tolist()
        differing = np.not_equal([coco.annToMask(e) for e in entries], np.asarray(detections.masks))
        assert differing.mean() < 1e-4
    for name, (height, width) in SIZES.items():
        with Image.open(out / "overlays" / Path(name).with_suffix(".jpg")) as overlay:
            factor = -(-640 // max(height, width))  # so that labels do not hide a small image
            assert (overlay.format, overlay.size) == ("JPEG", (factor * width, factor * height))


def test_an_exported_model_with_options_and_images_named_by_numbers(slim_onnx: Path, tmp_path: Path) -> None:
    for name in ("000000000042.png", "7.png"):
        Image.fromarray(noise_image(0, 128, 200)).save(tmp_path / name)
    options = ("--classes", "class b, class a", "--max-detections", "2", "--batch-size", "2", "--no-overlays")
    done = predict("*.png", "--model", slim_onnx, "--out", "new/out", *options, "--device", "cpu", cwd=tmp_path)
    assert done.returncode == 0
    assert files(tmp_path / "new" / "out") == ["detections.json", "images.json"]
    with Predictor(slim_onnx, device="cpu", classes=["class a", "class b"], max_detections=2) as predictor:
        (expected,) = predictor(tmp_path / "7.png")
    assert len(expected) == 2
    results = loaded(tmp_path / "new" / "out" / "detections.json")
    assert [(e["image_id"], e["category_id"]) for e in results] == [
        (image, label + 1) for image in (42, 7) for label in expected.labels.tolist()
    ]
    np.testing.assert_allclose([e["score"] for e in results], [*expected.scores, *expected.scores], atol=2e-5)


def test_a_mistyped_path_leaves_earlier_results_alone(slim_checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "detections.json").write_text("[1]")
    done = predict("nope.png", "--model", slim_checkpoint, "--device", "cpu", cwd=tmp_path)
    assert (done.returncode, error_line(done)) == (
        1,
        "error: no image at nope.png; expected images, folders, patterns or URLs",
    )
    assert (tmp_path / "results" / "detections.json").read_text() == "[1]"


def test_corrupt_images_are_named_skipped_and_counted(images: Path, slim_checkpoint: Path, tmp_path: Path) -> None:
    (images / "b.bmp").write_bytes((images / "b.bmp").read_bytes()[:99])
    arguments = ("pictures", "missing.jpg", "--model", slim_checkpoint, "--out", "out", "--device", "cpu", "--json")
    done = predict(*arguments, cwd=tmp_path)
    assert done.returncode == 1
    summary = json.loads(done.stdout)
    results = loaded(tmp_path / "out" / "detections.json")
    assert {key: summary[key] for key in ("out", "images", "detections", "interrupted")} == {
        "out": str(tmp_path / "out"),
        "images": 2,
        "detections": len(results),
        "interrupted": False,
    }
    assert [entry["file_name"] for entry in summary["skipped"]] == ["pictures/b.bmp", "missing.jpg"]
    skipped = [line for line in done.stderr.splitlines() if line.startswith("skipped:")]
    assert skipped == [f"skipped: {entry['error']}" for entry in summary["skipped"]]
    assert all(entry["file_name"] in entry["error"] for entry in summary["skipped"])
    # ids are places in the list: they do not move when an image is skipped
    listed = loaded(tmp_path / "out" / "images.json")["images"]
    assert [(entry["id"], entry["file_name"]) for entry in listed] == [(1, "pictures/a.png"), (3, "pictures/c.png")]
    assert {entry["image_id"] for entry in results} == {1, 3}
    assert files(tmp_path / "out" / "overlays") == ["a.jpg", "c.jpg"]


@pytest.mark.parametrize("given", [("--format", "labelme,yolo"), ("--format=labelme,yolo",)])
def test_formats_joined_by_commas_are_refused_with_what_to_give(given: tuple[str, ...], tmp_path: Path) -> None:
    done = predict("a.png", "--model", "m.pth", *given, cwd=tmp_path)
    assert done.returncode == 2
    assert "Repeat the option: --format labelme --format yolo" in done.stderr


def test_no_image_that_can_be_read_is_a_failure_that_leaves_no_folder(slim_checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("not an image")
    done = predict("text.jpg", "--model", slim_checkpoint, "--out", "out", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stdout == f"0 detections in 0 images, 1 skipped: {tmp_path / 'out'}\n"
    assert "no image was finished: no results were written into out" in done.stderr
    assert files(tmp_path) == ["text.jpg"]


@pytest.mark.parametrize(
    "names",
    [
        (),
        ("x/a.png",),
        ("x/a.png", "y/a.png", "a.jpg", "b.jpg", "b.tar.png"),
        ("a.bmp", "a.png", "a_2.png"),
        ("a_2.bmp", "a_2.png", "a.png"),
    ],
)
def test_every_overlay_has_a_name_of_its_own(names: tuple[str, ...]) -> None:
    paths = [Path(name) for name in names]
    overlays = list(file_stems(paths))
    assert len(set(overlays)) == len(overlays) == len(names)
    assert all(overlay.startswith(path.stem) for overlay, path in zip(overlays, paths, strict=True))


def test_no_image_s_files_are_called_as_the_list_of_classes() -> None:
    assert list(file_stems([Path("classes.png"), Path("x/classes.jpg")])) == ["classes_2", "classes_3"]


@pytest.mark.parametrize(
    ("arguments", "reason", "status"),
    [
        (("empty", "--model", "{model}"), "empty has no images", 1),
        (("none*.jpg", "--model", "{model}"), "nothing matches none*.jpg", 1),
        (("pictures", "--model", "none.pth"), "no checkpoint at none.pth", 1),
        (("pictures", "--model", "pictures/a.png"), "pictures/a.png is an image by its name; expected a model", 2),
        (("pictures", "--model", "text.txt"), "text.txt is a text file by its name; expected a model", 2),
        (("pictures", "m.onnx", "--model", "{model}"), "m.onnx is a model by its name and was given as an image", 2),
        (
            ("pictures", "--model", "{model}", "--classes", "class a,class x"),
            "no class 'class x'; its classes are class a",
            2,
        ),
        (("pictures", "--model", "{model}", "--score-threshold", "high"), "expected a number from 0 to 1, best or", 2),
        (("pictures", "--model", "{model}", "--score-threshold", "best"), "takes its numbers from --thresholds", 2),
        (("pictures", "--model", "{model}", "--classes", " ,,"), "--classes is ' ,,'; expected names of classes", 2),
        (("pictures", "--model", "{model}", "--format", "yolo", "--tolerance", "inf"), "tolerance is inf", 2),
        (("pictures", "--model", "{model}", "--canvas", "800"), "--canvas is '800'; expected HEIGHTxWIDTH", 2),
        (("pictures", "--model", "{model}", "--canvas", "100x96"), "positive multiples of 32", 2),
        (("pictures", "--model", "{model}", "--device", "gpu"), "device 'gpu' is unknown", 2),
        (("pictures", "--model", "{model}", "--thresholds", "f.json"), "--thresholds is for --score-threshold best", 2),
        (
            ("pictures", "--model", "{model}", "--score-threshold", "per_class", "--thresholds", "f.json"),
            "--score-threshold is 'per_class'; expected a number from 0 to 1, best or per-class",
            2,
        ),
        (("pictures", "--model", "{model}", "--classes", "Class A"), "class c. Did you mean 'class a'?", 2),
    ],
)
def test_what_cannot_be_done_is_one_line_and_leaves_nothing(
    arguments: tuple[str, ...], reason: str, status: int, images: Path, slim_checkpoint: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.txt").touch()
    filled_in = [argument.format(model=slim_checkpoint) for argument in arguments]
    done = predict(*filled_in, "--json", "--out", "out", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (status, "")
    assert reason in error_line(done)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("out", ["file", "file/below/it", "holds a file"])
def test_a_place_that_cannot_be_written_is_one_line_and_stays_as_it_is(
    out: str, images: Path, slim_checkpoint: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "holds a file").mkdir()
    (tmp_path / "holds a file" / "overlays").write_text("mine")
    before = files(tmp_path)
    done = predict("pictures", "--model", slim_checkpoint, "--out", out, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert f"{out}/" in error_line(done)
    assert "cannot be written" in error_line(done)
    assert files(tmp_path) == before
    assert (tmp_path / "file").read_text() == (tmp_path / "holds a file" / "overlays").read_text() == "mine"


def test_a_models_path_may_hold_brackets(images: Path, slim_checkpoint: Path, tmp_path: Path) -> None:
    model = tmp_path / "run[1" / "]" / "x[" / "bold]" / "model.pth"
    model.parent.mkdir(parents=True)
    model.symlink_to(slim_checkpoint)
    assert predict("pictures/b.bmp", "--model", "run[1/]/x[/bold]/model.pth", cwd=tmp_path).returncode == 0


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("pictures",),
        ("--model", "model.pth"),
        ("pictures", "--model", "model.pth", "--batch-size", "two"),
        ("pictures", "--model", "model.pth", "--wings", "2"),
    ],
)
def test_wrong_usage_exits_with_two(arguments: tuple[str, ...], tmp_path: Path) -> None:
    done = predict(*arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Usage: condinst-predict" in done.stderr
    assert files(tmp_path) == []


def test_an_overlay_too_wide_for_jpeg_is_a_png(slim_checkpoint: Path, tmp_path: Path) -> None:
    Image.new("RGB", (66_000, 3)).save(tmp_path / "wide.png")
    done = predict("wide.png", "--model", slim_checkpoint, cwd=tmp_path)
    assert (done.returncode, done.stderr.count("error")) == (0, 0)
    with Image.open(tmp_path / "results" / "overlays" / "wide.png") as overlay:
        assert overlay.size == (66_000, 3)
