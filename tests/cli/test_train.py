import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from condinst_deploy.cli.train import train as train_command
from condinst_deploy.data.shapes_dataset import generate_shapes
from condinst_deploy.training import train_model
from condinst_deploy.training.train_model import TrainedModel
from tests.support.models import SHIPPED
from tests.support.recipes import RECIPE

COMMAND = Path(sys.executable).parent / "condinst-train"


def train(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [COMMAND, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("train")
    (folder / "tiny.toml").write_text(RECIPE)
    generate_shapes(folder, "train", 4)
    generate_shapes(folder, "val", 2)
    return folder


def data_of(folder: Path) -> list[str | Path]:
    names = {"train-annotations": "train.json", "train-images": "train", "val-annotations": "val.json"}
    return [part for name, file in names.items() for part in (f"--{name}", folder / file)] + [
        "--val-images",
        folder / "val",
    ]


def test_a_run_without_a_terminal_says_how_far_it_is_and_prints_its_metrics(folder: Path, tmp_path: Path) -> None:
    done = train("--recipe", folder / "tiny.toml", *data_of(folder), "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "4 images to train on, 2 to evaluate on" in done.stderr
    assert f"\n{folder / 'train.json'}: 4 of 4 images, " in done.stderr
    assert "\nclass " in done.stderr
    reported = [line.split(":")[0] for line in done.stderr.splitlines() if " of 100: cls " in line]
    assert reported == [f"iteration {i} of 100" for i in (40, 80, 100)]
    metrics = json.loads(done.stdout)
    assert metrics["iteration"] == 100
    assert metrics["out"] == str(tmp_path / "runs" / "tiny")
    assert metrics["best"].pop("model") == str(tmp_path / "runs" / "tiny" / "best.pth")
    assert metrics["best"]["segm/ap"] >= metrics["segm/ap"]
    assert (tmp_path / "runs" / "tiny" / "model.pth").is_file()


def test_the_end_of_a_run_names_the_best_and_the_last_model(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scores = {"segm/ap50": 0.5, "bbox/ap": 0.4, "bbox/ap50": 0.6}
    last, best = {"iteration": 9.0, "segm/ap": 0.25} | scores, {"iteration": 6.0, "segm/ap": 0.3} | scores
    runs = [
        TrainedModel(Path("run"), Path("run/model.pth"), last, Path("run/best.pth"), best),
        TrainedModel(Path("run"), Path("run/model.pth"), last, Path("run/best.pth"), last),
        TrainedModel(Path("run"), Path("run/model.pth"), last),
    ]
    monkeypatch.setattr(train_model, "train", lambda *_: runs.pop(0))
    printed = []
    for _ in range(3):
        train_command("tiny", tmp_path, device="cpu")
        printed.append(capsys.readouterr().out.splitlines())
    values = "(AP50 0.5000), box AP 0.4000"
    last_line = f"last model, iteration 9: mask AP 0.2500 {values}: run/model.pth"
    assert printed == [
        [f"best model, iteration 6: mask AP 0.3000 {values}: run/best.pth", last_line],
        [f"best and last model, iteration 9: mask AP 0.2500 {values}: run/best.pth"],
        [last_line],
    ]


def test_a_look_before_a_run_prints_what_it_will_take(folder: Path, tmp_path: Path) -> None:
    done = train("--recipe", folder / "tiny.toml", *data_of(folder), "--check", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "\nclass " in done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "100 iterations, each image 25.0 times"
    assert lines[-1] == "examples with masks: runs/tiny/examples.jpg"
    assert [path.name for path in (tmp_path / "runs" / "tiny").iterdir()] == ["examples.jpg"]


def test_a_look_as_json_has_the_classes_and_what_is_odd(folder: Path, tmp_path: Path) -> None:
    done = train("--recipe", folder / "tiny.toml", *data_of(folder), "--check", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["iterations"] == 100
    assert [each["name"] for each in found["data"]["classes"]] == ["ellipse", "rectangle", "star"]
    assert found["data"]["errors"] == []


def test_a_run_shorter_than_its_warm_up_says_so_and_ends_with_a_model(folder: Path, tmp_path: Path) -> None:
    recipe = RECIPE.replace("warmup_iterations = 1", 'warmup_iterations = 9\ndecay = "cosine"')
    (tmp_path / "slow.toml").write_text(recipe)
    done = train("--recipe", "slow.toml", "--iterations", "1", *data_of(folder), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "warm-up shortened from 9 to 0 iterations: the run has only 1" in done.stderr
    assert "iteration 1 of 1: cls " in done.stderr
    assert (tmp_path / "runs" / "slow" / "model.pth").is_file()


def test_a_shorter_run_has_no_more_late_iterations_than_iterations(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "late.toml").write_text("late_iterations = 9\nlate_short_sides = [96]\n" + RECIPE)
    done = train("--recipe", "late.toml", "--iterations", "1", *data_of(folder), "--num-classes", "7", cwd=tmp_path)
    assert "error: --num-classes is 7" in done.stderr  # and nothing else is wrong


def test_data_that_cannot_be_right_is_refused_and_odd_data_where_it_is_asked_for(folder: Path, tmp_path: Path) -> None:
    content = json.loads((folder / "train.json").read_text())
    first, second = content["annotations"][:2]
    height, width = next((i["height"], i["width"]) for i in content["images"] if i["id"] == first["image_id"])
    places = data_of(folder)
    places[1] = tmp_path / "changed.json"
    command = ["--recipe", folder / "tiny.toml", "--iterations", "1", *places]
    first["bbox"] = [1, 1, width - 2, height - 2]
    first["segmentation"] = [[width + 20, 9, width + 40, 9, width + 40, 30]]
    (tmp_path / "changed.json").write_text(json.dumps(content))
    done = train(*command, cwd=tmp_path)
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ") and "cannot be" in line]
    assert f"polygons lie outside their image (annotation {first['id']})" in line
    assert done.stderr.count("outside their image") == 1
    first |= {"bbox": second["bbox"], "segmentation": second["segmentation"], "image_id": second["image_id"]}
    first["category_id"] = second["category_id"]
    (tmp_path / "changed.json").write_text(json.dumps(content))
    done = train(*command, "--strict", cwd=tmp_path)
    assert done.returncode == 1
    assert "cannot be trained on: 1 object annotated a second time" in done.stderr
    assert done.stderr.count("annotated a second time") == 1
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("arguments", "message", "status"),
    [
        (["--recipe", "nothing"], "no recipe 'nothing'; the package has ", 2),
        (["--recipe", "condinst_r50_1x", "--weights", "WEIGHTS"], "instances_train2017.json cannot be read", 1),
        (["--recipe", "condinst_r50_1x", "DATA"], "freezes parts of the backbone (start.frozen_stages = 2)", 2),
        (
            ["--recipe", "condinst_r50_1x", "--weights", "WEIGHTS", "--num-classes", "7", "DATA"],
            "--num-classes is 7;",
            2,
        ),
        (["--recipe", "condinst_r50_1x", "--resume", "DATA"], "last.pth", 1),
        (["--recipe", "shapes_slim", "--weights", "WEIGHTS", "--resume"], "last.pth", 1),
        (
            ["--recipe", "shapes_slim", "--weights", "WEIGHTS", "--backbone", "WEIGHTS"],
            "--weights and --backbone both",
            2,
        ),
    ],
)
def test_what_cannot_be_done_is_one_line(
    arguments: list[str], message: str, status: int, folder: Path, tmp_path: Path
) -> None:
    parts: dict[str, list[str | Path]] = {"DATA": data_of(folder), "WEIGHTS": [SHIPPED]}
    given = [part for name in arguments for part in parts.get(name, [name])]
    done = train(*given, cwd=tmp_path)
    assert done.returncode == status
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert message in line
    assert list(tmp_path.iterdir()) == []


def test_a_signal_to_one_of_two_processes_stops_both_with_a_checkpoint(folder: Path, tmp_path: Path) -> None:
    """As under torchrun, which gives each process its rank; they meet in a file and talk over the loopback."""
    (tmp_path / "long.toml").write_text(RECIPE.replace("batch_size = 1", "batch_size = 2").replace("= 100", "= 5000"))
    command = [COMMAND, "--recipe", "long.toml", *data_of(folder), "--meeting", f"file://{tmp_path}/meeting"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "WORLD_SIZE": "2"}
    processes = [
        subprocess.Popen(
            command,
            cwd=tmp_path,
            env=environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        first = processes[0].stderr
        assert first is not None
        assert any("iteration 40 of 5000" in line for line in first)
        processes[1].send_signal(signal.SIGUSR1)
        errors = [process.communicate(timeout=60)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [128 + signal.SIGTERM, 128 + signal.SIGUSR1]
    assert "stopped at iteration" in errors[0]
    assert "saved runs/long/last.pth; --resume goes on" in errors[0]
    assert not any("Traceback" in text for text in errors)
    assert (tmp_path / "runs" / "long" / "last.pth").is_file()
