"""`condinst-eval` as a user runs it."""

import hashlib
import json
import shutil
import sys
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import Result

from condinst_deploy.evaluation import evaluator
from condinst_deploy.evaluation.evaluate_models import EvaluationHooks
from condinst_deploy.evaluation.evaluate_models import evaluate as evaluate_models
from condinst_deploy.evaluation.ground_truth import load_ground_truth
from condinst_deploy.evaluation.provenance import code_digest
from condinst_deploy.evaluation.sources import EvaluationOptions, Source
from condinst_deploy.model.checkpoints import save_model
from condinst_deploy.runtime import observer
from condinst_deploy.runtime.observer import DECODE, NETWORK, StageTimer
from condinst_deploy.runtime.onnxruntime_backend import OnnxRuntimeBackend
from condinst_deploy.runtime.torch_backend import TorchBackend
from tests.support import small_coco
from tests.support.evaluations import SIZES, data_set, evaluate, metrics
from tests.support.models import SLIM, manifest_of, noise_image, seeded_model

pytestmark = pytest.mark.usefixtures("one_thread")

COUNT = 7


@pytest.fixture
def data(tmp_path: Path) -> tuple[Path, Path]:
    return data_set(tmp_path, COUNT)


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run(data: tuple[Path, Path], *arguments: str | Path) -> Result:
    return evaluate("--annotations", data[0], "--images", data[1], "--device", "cpu", *arguments)


def test_two_models_give_a_table_metrics_results_and_a_report(
    data: tuple[Path, Path], slim_checkpoint: Path, slim_onnx: Path
) -> None:
    done = run(data, "--model", slim_checkpoint, "--model", slim_onnx, "--gate", "0.1", "--per-class")
    assert done.exit_code == 0, done.output
    assert "mask AP" in done.stdout
    assert "class b mask AP" in done.stdout
    assert "100.00 % of the detections matched" in done.stdout
    assert "gate passed" in done.stderr
    reported = metrics()
    assert [side["name"] for side in reported["sides"]] == ["slim.pth", "slim.onnx"]
    assert [side["note"] for side in reported["sides"]] == ["torch on cpu, float32", "onnxruntime on cpu, float32"]
    assert reported["gate"] == {"limit": 0.1, "passed": True, "failures": []}
    assert reported["comparisons"][0]["agreement"]["matched"] == reported["sides"][0]["detections"] > 0
    assert set(reported["sides"][1]["per_class"]) == {"10", "11", "12"}
    entries = json.loads(Path("evaluation/slim.onnx.results.json").read_text())
    assert {entry["category_id"] for entry in entries} <= {10, 11, 12}  # the data's ids, not the model's 1, 2, 3
    assert list(dict.fromkeys(entry["image_id"] for entry in entries)) == sorted(
        {entry["image_id"] for entry in entries}, reverse=True
    )
    assert Path("evaluation/report.html").read_text().startswith("<!doctype html>")


def test_a_precision_is_for_the_checkpoints_among_the_models(
    data: tuple[Path, Path], slim_checkpoint: Path, slim_onnx: Path
) -> None:
    models = ("--model", slim_checkpoint, "--model", slim_onnx)
    done = run(data, *models, "--precision", "bfloat16", "--limit", "1")
    assert done.exit_code == 0, done.output
    notes = [side["note"] for side in metrics()["sides"]]
    assert notes == ["torch on cpu, bfloat16", "onnxruntime on cpu, float32"]


def test_json_alone_is_on_standard_output(data: tuple[Path, Path], slim_checkpoint: Path) -> None:
    done = run(data, "--model", slim_checkpoint, "--json", "--limit", "2", "--out", "new/folder")
    assert json.loads(done.stdout) == metrics(Path("new/folder"))
    assert json.loads(done.stdout)["images"] == 2
    assert json.loads(done.stdout)["comparisons"] == []


def test_an_observer_sees_the_stages_of_the_models_and_of_the_evaluation(
    data: tuple[Path, Path], slim_checkpoint: Path, tmp_path: Path
) -> None:
    timer = StageTimer()
    options = EvaluationOptions(tmp_path / "out", device="cpu", observer=timer)
    sources = [Source(slim_checkpoint, is_model=True)] * 2
    evaluator.evaluate(sources, load_ground_truth(*data, limit=2), options, lambda *_: None)
    times = timer.take()
    assert {each.stage for each in times} == {*observer.STAGES, *evaluator.STAGES}
    images = [(str(data[1] / f"{i}.png"),) for i in (COUNT, COUNT - 1)]
    for stage in (DECODE, NETWORK, evaluator.ENCODE, evaluator.JOURNAL):
        # the second source is the same file, so its results are in the journal
        assert [each.images for each in times if each.stage == stage] == images


class Stop:
    """Interrupts the network at its n-th run, and counts."""

    def __init__(self, at: int | None) -> None:
        self.at, self.runs, self.images = at, 0, 0


@pytest.fixture
def stop(monkeypatch: pytest.MonkeyPatch) -> Stop:
    state = Stop(None)
    for backend in (TorchBackend, OnnxRuntimeBackend):
        forward = backend.forward

        def counted(self: Any, inputs: Any, forward: Any = forward) -> Any:
            if state.runs == state.at:
                raise KeyboardInterrupt
            state.runs += 1
            state.images += len(inputs.images)
            return forward(self, inputs)

        monkeypatch.setattr(backend, "forward", counted)
    return state


# a window of batches of two is eight images: four runs
@pytest.mark.parametrize(("count", "batch_size", "stop_at", "kept"), [(COUNT, 1, 4, 4), (11, 2, 5, 8)])
def test_an_interrupted_run_goes_on_and_ends_with_the_same_numbers(
    count: int, batch_size: int, stop_at: int, kept: int, tmp_path: Path, slim_checkpoint: Path, stop: Stop
) -> None:
    data = data_set(tmp_path, count)
    arguments = ("--model", slim_checkpoint, "--batch-size", str(batch_size))
    assert run(data, *arguments, "--out", "whole").exit_code == 0
    whole, stop.runs, stop.images = stop.images, 0, 0
    assert whole == count
    stop.at = stop_at
    done = run(data, *arguments, "--out", "parts")
    assert done.exit_code == 130
    assert "the same command goes on" in done.stderr
    assert not Path("parts/figures.json").exists()
    stop.at, stop.runs, stop.images = None, 0, 0
    done = run(data, *arguments, "--out", "parts")
    assert done.exit_code == 0
    assert f"{kept} of {count} images finished before" in done.stderr
    assert stop.images == count - kept
    reported = f"; {kept} of {count} images from the journal"
    assert Path("parts/slim.pth.results.json").read_bytes() == Path("whole/slim.pth.results.json").read_bytes()
    assert Path("parts/report.html").read_text().replace(reported, "") == Path("whole/report.html").read_text()
    a, b = metrics(Path("whole")), metrics(Path("parts"))
    assert (a["sides"][0].pop("images_from_journal"), b["sides"][0].pop("images_from_journal")) == (0, kept)
    assert b["sides"][0].pop("note") == a["sides"][0].pop("note") + reported
    a["sides"][0].pop("results")
    b["sides"][0].pop("results")
    assert a == b


def test_only_a_new_model_is_run(data: tuple[Path, Path], slim_checkpoint: Path, slim_onnx: Path, stop: Stop) -> None:
    run(data, "--model", slim_checkpoint)
    assert stop.images == COUNT
    run(data, "--model", slim_checkpoint, "--model", slim_onnx)
    assert stop.images == 2 * COUNT
    run(data, "--model", slim_checkpoint, "--model", slim_onnx)
    assert stop.images == 2 * COUNT
    Image.fromarray(noise_image(99, *SIZES[1])).save(data[1] / "3.png")  # an image was replaced
    run(data, "--model", slim_checkpoint)
    assert stop.images == 3 * COUNT - 4  # those before it, 7 to 4, are as they were


def test_the_images_of_a_limited_run_are_not_run_again(
    data: tuple[Path, Path], slim_checkpoint: Path, stop: Stop
) -> None:
    assert run(data, "--model", slim_checkpoint, "--limit", "4").exit_code == 0
    assert stop.images == 4
    assert f"4 of {COUNT} images finished before" in run(data, "--model", slim_checkpoint).stderr
    assert stop.images == COUNT
    run(data, "--model", slim_checkpoint, "--limit", "2")
    assert stop.images == COUNT


def test_what_was_run_by_other_code_is_run_again(
    data: tuple[Path, Path], slim_checkpoint: Path, stop: Stop, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(data, "--model", slim_checkpoint)
    monkeypatch.setattr("condinst_deploy.evaluation.provenance.code_digest", lambda package: "changed")
    run(data, "--model", slim_checkpoint)
    assert stop.images == 2 * COUNT
    assert metrics()["sides"][0]["images_from_journal"] == 0
    run(data, "--model", slim_checkpoint)
    assert stop.images == 2 * COUNT
    side = metrics()["sides"][0]
    assert (side["images_from_journal"], side["note"]) == (
        COUNT,
        "torch on cpu, float32; 7 of 7 images from the journal",
    )
    run(data, "--model", slim_checkpoint, "--fresh")
    assert stop.images == 3 * COUNT
    stop.at = stop.runs
    assert "the same command without --fresh goes on" in run(data, "--model", slim_checkpoint, "--fresh").stderr


def test_the_digest_of_the_code_follows_every_python_file(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    digests = []
    for number, (name, text) in enumerate([("a.py", "1"), ("inner/b.py", "1"), ("inner/b.py", "2"), ("c.html", "1")]):
        (tmp_path / name).write_text(text)
        copy = tmp_path.parent / f"{tmp_path.name}-{number}"  # a folder's digest is computed once
        shutil.copytree(tmp_path, copy)
        digests.append(code_digest(copy))
    assert len(set(digests)) == 3
    assert digests[2] == digests[3]


def test_metrics_say_what_they_depend_on(data: tuple[Path, Path], slim_checkpoint: Path) -> None:
    run(data, "--model", slim_checkpoint, "--batch-size", "2", "--score-threshold", "0.4")
    settings = metrics()["sides"][0]["settings"]
    assert settings["model"] == {"file": "slim.pth", "sha256": hashlib.sha256(slim_checkpoint.read_bytes()).hexdigest()}
    assert (settings["batch_size"], settings["score_threshold"]) == (2, 0.4)
    assert settings["versions"]["torch"] == version("torch")
    assert {"onnxruntime", "tensorrt-rtx"} < settings["versions"].keys()
    assert metrics()["versions"]["pycocotools"] == version("pycocotools")


def test_what_is_to_be_read_is_not_written_over(data: tuple[Path, Path], slim_checkpoint: Path, stop: Stop) -> None:
    run(data, "--model", slim_checkpoint)
    old = Path("evaluation/slim.pth.results.json")
    old.write_text("[]")  # as if another version had found nothing
    Path("link.json").symlink_to(old)
    for given in (old, "link.json", "evaluation/report.html", "evaluation/figures.json"):
        before, stop.images = Path(given).read_bytes(), 0
        done = run(data, "--model", slim_checkpoint, "--results", given, "--gate", "0.1")
        assert (done.exit_code, stop.images) == (2, 0)  # wrong usage
        assert f"error: {given} is to be read, and this evaluation would write over it" in done.stderr
        assert Path(given).read_bytes() == before
    moved = old.rename("old.json")
    done = run(data, "--model", slim_checkpoint, "--results", moved)
    assert done.exit_code == 0
    assert metrics()["sides"][1]["detections"] == 0


@pytest.mark.parametrize(
    ("second", "message", "status"),
    [
        (("--model", "none.onnx"), "no model at none.onnx", 1),
        (("--model", "x.engine"), "no engine at x.engine: write one with condinst-build-engine", 1),
        (("--model", "other.pth"), "only the model has class_0, class_1", 2),
        (("--results", "bad.json"), "bad.json: entry 1 has score 'much'", 1),
        (("--fast",), "--fast needs faster-coco-eval", 1),
    ],
)
def test_what_cannot_work_is_said_before_the_first_image(
    second: tuple[str, ...],
    message: str,
    status: int,
    data: tuple[Path, Path],
    slim_checkpoint: Path,
    stop: Stop,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    two = replace(SLIM, num_classes=2)
    names = replace(manifest_of(two), class_names=("class_0", "class_1"))
    save_model(Path("other.pth"), seeded_model(two), names)
    Path("bad.json").write_text(json.dumps([{"image_id": 1, "category_id": 10, "bbox": [0, 0, 9, 9], "score": "much"}]))
    done = run(data, "--model", slim_checkpoint, *second)
    assert (done.exit_code, stop.images) == (status, 0)
    assert message in done.stderr


def test_cocos_own_ids_are_in_the_results(tmp_path: Path) -> None:
    from condinst_deploy.contract.coco_classes import COCO_CLASSES

    config = replace(SLIM, num_classes=80)
    manifest = replace(manifest_of(config), class_names=tuple(COCO_CLASSES.values()))
    save_model(tmp_path / "coco.pth", seeded_model(config), manifest)
    assert manifest.category_ids[-1] == 80
    categories = [{"id": i, "name": name} for i, name in COCO_CLASSES.items()]
    values = small_coco.content() | {"categories": categories}
    for entry in values["images"]:
        entry["width"] = 160
    values["annotations"] = [small_coco.annotation(1, 139, 90, (10, 10, 60, 60))]
    annotations, images = small_coco.written(tmp_path, values)
    for i, path in enumerate(sorted(images.iterdir())):
        Image.fromarray(noise_image(i, 200, 160)).save(path)
    done = run((annotations, images), "--model", "coco.pth")
    assert done.exit_code == 0, done.output
    entries = json.loads(Path("evaluation/coco.pth.results.json").read_text())
    found = {entry["category_id"] for entry in entries}
    assert found <= set(COCO_CLASSES)
    assert max(found) > 80


@pytest.mark.parametrize(
    ("arguments", "message", "status"),
    [
        ((), "nothing to evaluate: name models with --model, or results files with --results", 2),
        (
            ("--model", "{model}", "--images", "nowhere"),
            "no folder at nowhere; expected the folder of the annotated images",
            1,
        ),
        (("--model", "{model}"), "--images is missing", 2),
        (("--model", "{model}", "--images", "pictures", "--gate", "0.1"), "name at least one more", 2),
        (
            ("--results", "a.json", "--results", "b.json", "--gate", "-1"),
            "--gate is -1; expected 0 to 100 AP points",
            2,
        ),
        (("--results", "a.json"), "no results file at a.json", 1),
        (("--results", "val.json", "--score-threshold", "nan"), "score_threshold is nan; expected a number from", 2),
        (("--results", "val.json", "--score-threshold", "7"), "score_threshold is 7.0; expected a number from", 2),
        (("--results", "val.json", "--batch-size", "0"), "batch_size is 0; expected at least 1", 2),
        (("--results", "val.json", "--precision", "float16"), "no model is a checkpoint", 2),
        (("--model", "none.pth", "--images", "pictures"), "no checkpoint at none.pth", 1),
        (("--model", "{onnx}", "--images", "pictures", "--score-threshold", "0.01"), "score_threshold is 0.01", 2),
        (("--model", "{model}", "--images", "pictures", "--out", "val.json"), "val.json", 1),
    ],
)
def test_what_cannot_be_done_is_one_line(
    arguments: tuple[str, ...],
    message: str,
    status: int,
    data: tuple[Path, Path],
    slim_checkpoint: Path,
    slim_onnx: Path,
) -> None:
    filled_in = [argument.format(model=slim_checkpoint, onnx=slim_onnx) for argument in arguments]
    done = evaluate("--annotations", "val.json", "--device", "cpu", *filled_in)
    assert (done.exit_code, done.stdout) == (status, "")
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert message in line
    assert "Traceback" not in done.stderr


def test_a_models_other_classes_are_one_line(tmp_path: Path, slim_checkpoint: Path) -> None:
    done = run(small_coco.written(tmp_path), "--model", slim_checkpoint)
    assert done.exit_code == 2
    assert "only the model has class a, class b, class c; only the data has person, stop sign" in done.stderr


def test_an_image_of_another_size_or_that_cannot_be_read_is_named(
    data: tuple[Path, Path], slim_checkpoint: Path
) -> None:
    Image.new("RGB", (64, 64)).save(data[1] / "5.png")
    done = run(data, "--model", slim_checkpoint)
    assert "5.png is 64x64, but image 5 of" in done.stderr
    (data[1] / "5.png").write_text("no image")
    done = run(data, "--model", slim_checkpoint)
    assert (done.exit_code, done.stderr.count("error:")) == (1, 1)
    assert "5.png is not an image in a known format" in done.stderr


def test_wrong_usage_exits_with_two() -> None:
    assert evaluate("--model", "x.pth").exit_code == 2
    assert evaluate("--annotations", "x.json", "--gate", "much").exit_code == 2
    assert evaluate("--annotations", "x.json", "--limit", "0").exit_code == 2


@pytest.mark.parametrize(("name", "status"), [("notes.txt", 2), ("image.png", 2), ("folder", 2), ("nothing", 1)])
def test_a_model_of_another_kind_is_refused_before_a_folder_is_made(
    data: tuple[Path, Path], name: str, status: int
) -> None:
    Path("notes.txt").write_text("x")
    Path("folder").mkdir()
    done = run(data, "--model", name)
    assert (done.exit_code, done.stderr.count("error:")) == (status, 1)
    assert "; expected a model, a file ending in .pth" in done.stderr
    assert not Path("evaluation").exists()


def test_three_sides_with_one_file_name_have_results_and_progress_of_their_own(
    data: tuple[Path, Path], slim_checkpoint: Path
) -> None:
    models = [Path("x/a.pth"), Path("y/a.pth"), Path("x_a.pth")]
    for model in models:
        model.parent.mkdir(exist_ok=True)
        shutil.copy(slim_checkpoint, model)
    seen: list[tuple[str, int, int]] = []
    hooks = EvaluationHooks(on_progress=lambda *progress: seen.append(progress))
    options = EvaluationOptions(Path("evaluation"), "cpu", gate=0.0)
    found = evaluate_models(*data, models=models, options=options, hooks=hooks)
    assert not found.verdict.failures
    names = ["x/a.pth", "y/a.pth", "x_a.pth (3)"]
    assert [side["name"] for side in metrics()["sides"]] == names
    assert len({side["results"] for side in metrics()["sides"]}) == 3
    assert [comparison["name"] for comparison in metrics()["comparisons"]] == names[1:]
    assert ("x/a.pth", 1, COUNT) in seen
    assert [progress for progress in seen if progress[0] == "y/a.pth"] == [("y/a.pth", COUNT, COUNT)]  # the same file
    assert ("x_a.pth (3): agreement", COUNT, COUNT) in seen
