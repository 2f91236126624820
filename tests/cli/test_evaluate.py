"""`condinst-eval` as a user runs it."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from condinst_deploy.cli.evaluate import main
from condinst_deploy.evaluation.evaluate import unique_names
from condinst_deploy.model.checkpoints import save_model
from condinst_deploy.runtime.onnxruntime_backend import OnnxRuntimeBackend
from condinst_deploy.runtime.torch_backend import TorchBackend
from tests import small_coco
from tests.models import SLIM, manifest_of, noise_picture, seeded_model

pytestmark = pytest.mark.usefixtures("one_thread")

COUNT = 7
SIZES = ((120, 200), (90, 110))


@pytest.fixture
def data(tmp_path: Path) -> tuple[Path, Path]:
    """Pictures of two sizes with the slim model's three classes, in an order that is not the ids'."""
    (tmp_path / "pictures").mkdir()
    images, annotations = [], []
    for i in range(COUNT, 0, -1):
        height, width = SIZES[i % 2]
        Image.fromarray(noise_picture(i, height, width)).save(tmp_path / "pictures" / f"{i}.png")
        images.append({"id": i, "file_name": f"{i}.png", "height": height, "width": width})
        entry = small_coco.annotation(i, i, 10 + i % 3, (10, 10, 60, 60))
        annotations.append(entry)
    categories = [{"id": 10 + i, "name": f"class {name}"} for i, name in enumerate("abc")]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (tmp_path / "val.json").write_text(json.dumps(content))
    return tmp_path / "val.json", tmp_path / "pictures"


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def evaluate(*arguments: str | Path) -> Result:
    done = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done


def run(data: tuple[Path, Path], *arguments: str | Path) -> Result:
    return evaluate("--annotations", data[0], "--images", data[1], "--device", "cpu", *arguments)


def figures(out: Path = Path("evaluation")) -> Any:
    return json.loads((out / "figures.json").read_text())


def test_two_models_give_a_table_figures_results_and_a_report(
    data: tuple[Path, Path], slim_checkpoint: Path, slim_onnx: Path
) -> None:
    done = run(data, "--model", slim_checkpoint, "--model", slim_onnx, "--gate", "0.1", "--per-class")
    assert done.exit_code == 0, done.output
    assert "mask AP" in done.stdout
    assert "class b mask AP" in done.stdout
    assert "100.00 % of the detections matched" in done.stdout
    assert "gate passed" in done.stderr
    told = figures()
    assert [side["name"] for side in told["sides"]] == ["slim.pth", "slim.onnx"]
    assert [side["note"] for side in told["sides"]] == ["torch on cpu, float32", "onnxruntime on cpu, float32"]
    assert told["gate"] == {"limit": 0.1, "passed": True, "failures": []}
    assert told["comparisons"][0]["agreement"]["matched"] == told["sides"][0]["detections"] > 0
    assert set(told["sides"][1]["per_class"]) == {"10", "11", "12"}
    entries = json.loads(Path("evaluation/slim.onnx.results.json").read_text())
    assert {entry["category_id"] for entry in entries} <= {10, 11, 12}  # the data's ids, not the model's 1, 2, 3
    assert list(dict.fromkeys(entry["image_id"] for entry in entries)) == sorted(
        {entry["image_id"] for entry in entries}, reverse=True
    )
    assert Path("evaluation/report.html").read_text().startswith("<!doctype html>")


def test_json_alone_is_on_standard_output(data: tuple[Path, Path], slim_checkpoint: Path) -> None:
    done = run(data, "--model", slim_checkpoint, "--json", "--limit", "2", "--out", "new/folder")
    assert json.loads(done.stdout) == figures(Path("new/folder"))
    assert json.loads(done.stdout)["pictures"] == 2
    assert json.loads(done.stdout)["comparisons"] == []


class Stop:
    """Interrupts the network at its n-th run, and counts."""

    def __init__(self, at: int | None) -> None:
        self.at, self.runs, self.pictures = at, 0, 0


@pytest.fixture
def stop(monkeypatch: pytest.MonkeyPatch) -> Stop:
    state = Stop(None)
    for backend in (TorchBackend, OnnxRuntimeBackend):
        forward = backend.forward

        def counted(self: Any, inputs: Any, forward: Any = forward) -> Any:
            if state.runs == state.at:
                raise KeyboardInterrupt
            state.runs += 1
            state.pictures += len(inputs.images)
            return forward(self, inputs)

        monkeypatch.setattr(backend, "forward", counted)
    return state


@pytest.mark.parametrize("batch_size", [1, 2])
def test_an_interrupted_run_goes_on_and_ends_with_the_same_numbers(
    batch_size: int, data: tuple[Path, Path], slim_checkpoint: Path, stop: Stop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("condinst_deploy.runtime.predictor.WINDOW", 2)
    arguments = ("--model", slim_checkpoint, "--batch-size", str(batch_size))
    assert run(data, *arguments, "--out", "whole").exit_code == 0
    whole, stop.runs, stop.pictures = stop.pictures, 0, 0
    assert whole == COUNT
    stop.at = 4 if batch_size == 1 else 3  # a window of four pictures of two sizes is three runs or less
    done = run(data, *arguments, "--out", "parts")
    assert done.exit_code == 130
    assert "the same command goes on" in done.stderr
    assert not Path("parts/figures.json").exists()
    kept = 4
    stop.at, stop.runs, stop.pictures = None, 0, 0
    done = run(data, *arguments, "--out", "parts")
    assert done.exit_code == 0
    assert f"{kept} of {COUNT} pictures were finished before" in done.stderr
    assert stop.pictures == COUNT - kept
    for name in ("slim.pth.results.json", "report.html"):
        assert Path("parts", name).read_bytes() == Path("whole", name).read_bytes()
    a, b = figures(Path("whole")), figures(Path("parts"))
    a["sides"][0].pop("results")
    b["sides"][0].pop("results")
    assert a == b


def test_only_a_new_model_is_run(data: tuple[Path, Path], slim_checkpoint: Path, slim_onnx: Path, stop: Stop) -> None:
    run(data, "--model", slim_checkpoint)
    assert stop.pictures == COUNT
    run(data, "--model", slim_checkpoint, "--model", slim_onnx)
    assert stop.pictures == 2 * COUNT
    run(data, "--model", slim_checkpoint, "--model", slim_onnx)
    assert stop.pictures == 2 * COUNT
    Image.fromarray(noise_picture(99, *SIZES[1])).save(data[1] / "3.png")  # a picture was replaced
    run(data, "--model", slim_checkpoint)
    assert stop.pictures == 3 * COUNT


def test_results_files_from_anywhere_with_a_gate(tmp_path: Path) -> None:
    annotations, _ = small_coco.written(tmp_path)
    good, bad = small_coco.results(), small_coco.results()
    bad[4]["bbox"][0] += 30  # the toothbrush's box
    for name, content in (("good", good), ("bad", bad)):
        Path(f"{name}.json").write_text(json.dumps(content))
    command = ("--annotations", annotations, "--results", "good.json", "--results", "bad.json")
    done = evaluate(*command, "--gate", "0.1")
    assert done.exit_code == 1
    assert [line for line in done.stderr.splitlines() if line.startswith("gate failed:")] == [
        "gate failed: bad.json: box AP is 28.45, -33.33 from the reference's 61.78",
        "gate failed: bad.json: box AP50 is 33.50, -33.33 from the reference's 66.83",
        "gate failed: bad.json: box AP75 is 33.50, -33.33 from the reference's 66.83",
        "gate failed: bad.json: box AP medium is 35.00, -50.00 from the reference's 85.00",
    ]
    assert figures()["gate"]["passed"] is False
    assert evaluate(*command, "--gate", "50").exit_code == 0
    assert evaluate(*command).exit_code == 0
    same = evaluate("--annotations", annotations, "--results", "good.json", "--results", "good.json", "--gate", "0")
    assert same.exit_code == 0


def test_the_score_threshold_holds_for_results_files_too(tmp_path: Path) -> None:
    annotations, _ = small_coco.written(tmp_path)
    Path("r.json").write_text(json.dumps(small_coco.results()))
    evaluate("--annotations", annotations, "--results", "r.json", "--score-threshold", "0.65")
    assert figures()["sides"][0]["detections"] == 4


def test_cocos_own_ids_are_in_the_results(tmp_path: Path) -> None:
    from dataclasses import replace

    from condinst_deploy.coco_classes import COCO_CLASSES

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
        Image.fromarray(noise_picture(i, 200, 160)).save(path)
    done = run((annotations, images), "--model", "coco.pth")
    assert done.exit_code == 0, done.output
    entries = json.loads(Path("evaluation/coco.pth.results.json").read_text())
    found = {entry["category_id"] for entry in entries}
    assert found <= set(COCO_CLASSES)
    assert max(found) > 80


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "nothing to evaluate: name models with --model, or results files with --results"),
        (("--model", "{model}", "--images", "nowhere"), "no folder of pictures at nowhere"),
        (("--model", "{model}"), "--images is missing"),
        (("--model", "{model}", "--images", "pictures", "--gate", "0.1"), "name at least one more"),
        (("--results", "a.json", "--results", "b.json", "--gate", "-1"), "--gate is -1; expected 0 to 100 AP points"),
        (("--results", "a.json"), "no results file at a.json"),
        (("--model", "x.engine", "--images", "pictures"), "x.engine"),
        (("--model", "none.pth", "--images", "pictures"), "no checkpoint at none.pth"),
        (("--model", "{model}", "--images", "pictures", "--limit", "0"), "the limit is 0"),
        (("--model", "{model}", "--images", "pictures", "--score-threshold", "0.01"), "score_threshold is 0.01"),
        (("--model", "{model}", "--images", "pictures", "--out", "val.json"), "val.json"),
    ],
)
def test_what_cannot_be_done_is_one_line(
    arguments: tuple[str, ...], message: str, data: tuple[Path, Path], slim_checkpoint: Path
) -> None:
    filled_in = [argument.format(model=slim_checkpoint) for argument in arguments]
    done = evaluate("--annotations", "val.json", "--device", "cpu", *filled_in)
    assert (done.exit_code, done.stdout) == (1, "")
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert message in line
    assert "Traceback" not in done.stderr


def test_a_models_other_classes_are_one_line(tmp_path: Path, slim_checkpoint: Path) -> None:
    done = run(small_coco.written(tmp_path), "--model", slim_checkpoint)
    assert done.exit_code == 1
    assert "only the model has class a, class b, class c; only the data has person, stop sign" in done.stderr


def test_a_picture_of_another_size_or_that_cannot_be_read_is_named(
    data: tuple[Path, Path], slim_checkpoint: Path
) -> None:
    Image.new("RGB", (64, 64)).save(data[1] / "5.png")
    done = run(data, "--model", slim_checkpoint)
    assert "5.png is 64x64, but picture 5 of" in done.stderr
    (data[1] / "5.png").write_text("no picture")
    done = run(data, "--model", slim_checkpoint)
    assert (done.exit_code, done.stderr.count("error:")) == (1, 1)
    assert "5.png is not a picture in a known format" in done.stderr


def test_wrong_usage_exits_with_two() -> None:
    assert evaluate("--model", "x.pth").exit_code == 2
    assert evaluate("--annotations", "x.json", "--gate", "much").exit_code == 2


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["a.pth"], ["a.pth"]),
        (["runs/a.pth", "b/a.onnx"], ["a.pth", "a.onnx"]),
        (["x/a.pth", "y/a.pth"], ["x/a.pth", "y/a.pth"]),
        (["x/z/a.pth", "y/z/a.pth", "b.pth"], ["x/z/a.pth", "y/z/a.pth", "b.pth"]),
        (["a.pth", "a.pth"], ["a.pth", "a.pth (2)"]),
    ],
)
def test_every_side_has_a_name_of_its_own(paths: list[str], names: list[str]) -> None:
    assert unique_names([Path(path) for path in paths]) == names
