import errno
import json
import os
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from typer.testing import CliRunner

from condinst_deploy.contract import MANIFEST_KEY, Selection
from condinst_deploy.errors import VerificationError
from condinst_deploy.evaluation.agreement import ONNX_TOLERANCE, agreement
from condinst_deploy.model.checkpoints import save_model
from condinst_deploy.runtime.predictor import Predictor
from condinst_deploy.support.digests import sha256_of
from condinst_export import exporter, verify
from condinst_export.cli import main
from tests.support.adelaidet_names import adelaidet_state_of
from tests.support.models import (
    GOLDEN,
    IMAGES,
    SLIM_ADELAIDET,
    SLIMMER,
    adelaidet_detections,
    manifest_of,
    noise_image,
    seeded_model,
)

COMMAND = Path(sys.executable).parent / "condinst-export"
STATIC = "1x128x224"
OPTIONS = (
    "--static",
    STATIC,
    "--max-detections",
    "5",
    "--score-threshold",
    "0.01",
    "--nms-iou",
    "0.5",
    "--candidates-per-level",
    "300",
)


pytestmark = pytest.mark.usefixtures("one_thread")


def export(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [COMMAND, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done


def error_text(done: subprocess.CompletedProcess[str]) -> str:
    start = done.stderr.index("error:")
    assert done.stderr.count("error:") == 1
    return done.stderr[start:]


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "tiny.v2.pth"
    save_model(path, seeded_model(SLIMMER), manifest_of(SLIMMER))
    return path


@dataclass(frozen=True)
class Exported:
    folder: Path  # where the commands ran
    as_json: subprocess.CompletedProcess[str]  # to named/model.onnx, with class names
    plain: subprocess.CompletedProcess[str]  # to the default place, twice


@pytest.fixture(scope="module")
def exported(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    folder = tmp_path_factory.mktemp("exported")
    # as Windows' editors save text: with a byte order mark
    (folder / "names.txt").write_text("ant\n\nbee  \nsea cow\n", encoding="utf-8-sig")
    named = ("--out", "named/model.onnx", "--class-names", "names.txt", "--json")
    return Exported(
        folder,
        export("--weights", weights, *OPTIONS, *named, cwd=folder),
        export("--weights", weights, *OPTIONS, cwd=folder),
    )


def manifest_in(path: Path) -> dict[str, Any]:
    (entry,) = [entry.value for entry in onnx.load(path).metadata_props if entry.key == MANIFEST_KEY]
    manifest: dict[str, Any] = json.loads(entry)
    return manifest


def test_the_file_goes_below_the_current_directory_and_its_path_is_printed(exported: Exported) -> None:
    assert exported.plain.returncode == 0
    path = exported.folder / "export" / "build" / "tiny.v2.onnx"
    assert exported.plain.stdout == f"{path}\n"
    assert files(exported.folder) == ["export/build/tiny.v2.onnx", "named/model.onnx", "names.txt"]
    assert "condinst-deploy checkpoint, ResNet-18, 3 classes" in exported.plain.stderr
    assert "comparing ONNX Runtime with PyTorch" in exported.plain.stderr


def test_json_is_all_that_standard_output_holds(exported: Exported) -> None:
    assert exported.as_json.returncode == 0
    summary = json.loads(exported.as_json.stdout)
    path = exported.folder / "named" / "model.onnx"
    assert summary["path"] == str(path)
    assert summary["manifest"] == manifest_in(path)
    total = summary["verification"]["total"]
    assert total["reference"] == total["other"] == total["matched"] > 0
    assert total["max_box_error_px"] <= ONNX_TOLERANCE.boxes
    assert total["min_mask_iou"] >= ONNX_TOLERANCE.mask_iou
    assert {tuple(case["shape"]) for case in summary["verification"]["cases"]} == {(1, 3, 128, 224)}


def test_the_options_end_in_the_manifest(exported: Exported) -> None:
    manifest = manifest_in(exported.folder / "named" / "model.onnx")
    assert manifest["selection"] == {
        "score_threshold": 0.01,
        "candidates_per_level": 300,
        "nms_iou": 0.5,
        "family": "mmdet",
        "max_detections": 5,
    }
    assert manifest["static_shape"] == [1, 128, 224]
    assert (manifest["class_names"], manifest["category_ids"]) == (["ant", "bee", "sea cow"], [1, 2, 3])
    assert {"condinst-deploy", "torch", "onnx", "onnxscript"} <= set(manifest["tools"])


def test_the_file_differs_in_class_names_alone_from_another_export(exported: Exported) -> None:
    named, plain = (onnx.load(exported.folder / name) for name in ("named/model.onnx", "export/build/tiny.v2.onnx"))
    manifests = []
    for proto in (named, plain):
        (entry,) = [entry for entry in proto.metadata_props if entry.key == MANIFEST_KEY]
        manifests.append(json.loads(entry.value))
        entry.value = ""
    assert named.SerializeToString(deterministic=True) == plain.SerializeToString(deterministic=True)
    assert manifests[1] == manifests[0] | {"class_names": ["class a", "class b", "class c"]}


def test_a_fixed_shape_is_fixed_and_predicts_as_the_model_does(exported: Exported, tmp_path: Path) -> None:
    path = exported.folder / "named" / "model.onnx"
    image_input, sizes = onnx.load(path).graph.input
    assert [d.dim_value for d in image_input.type.tensor_type.shape.dim] == [1, 3, 128, 224]
    assert [d.dim_value for d in sizes.type.tensor_type.shape.dim] == [1, 2]
    selection = Selection(score_threshold=0.01, nms_iou=0.5, max_detections=5, candidates_per_level=300)
    config = replace(SLIMMER, selection=selection)
    save_model(tmp_path / "reference.pth", seeded_model(config), manifest_of(config))
    # the whole fixed shape, so that there is no padding that the other does not have
    images = [noise_image(seed, 128, 224) for seed in range(2)]
    with Predictor(tmp_path / "reference.pth", device="cpu") as reference, Predictor(path, device="cpu") as predictor:
        for want, have in zip(reference(images), predictor(images), strict=True):
            assert len(want) == 5
            assert agreement(want, have).within(ONNX_TOLERANCE), str(agreement(want, have))
            assert set(have.names) <= {"ant", "bee", "sea cow"}


def test_the_manifest_names_the_file_that_the_weights_came_from(exported: Exported, weights: Path) -> None:
    manifest = manifest_in(exported.folder / "named" / "model.onnx")
    assert (manifest["source"], manifest["source_sha256"]) == (weights.name, sha256_of(weights))


@pytest.mark.slow
def test_a_dynamic_export_is_byte_for_byte_the_same_in_another_process(
    slim_checkpoint: Path, slim_onnx: Path, tmp_path: Path
) -> None:
    done = export("--weights", slim_checkpoint, "--out", "slim.onnx", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, f"{tmp_path / 'slim.onnx'}\n")
    assert (tmp_path / "slim.onnx").read_bytes() == slim_onnx.read_bytes()
    images, _ = onnx.load(slim_onnx).graph.input
    assert [d.dim_param or d.dim_value for d in images.type.tensor_type.shape.dim] == ["batch", 3, "height", "width"]


def test_adelaidets_checkpoint_is_recognised_and_exported(tmp_path: Path) -> None:
    config = replace(SLIM_ADELAIDET, tower_convs=1, mask_branch_channels=16, mask_branch_convs=1)
    torch.save({"model": adelaidet_state_of(seeded_model(config))}, tmp_path / "CondInst_slim.pth")
    done = export("--weights", "CondInst_slim.pth", "--static", STATIC, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "AdelaiDet CondInst, ResNet-50, 3 classes" in " ".join(done.stderr.split())
    summary = json.loads(done.stdout)
    assert summary["path"] == str(tmp_path / "export" / "build" / "CondInst_slim.onnx")
    assert manifest_in(Path(summary["path"]))["family"] == summary["manifest"]["selection"]["family"] == "adelaidet"
    total = summary["verification"]["total"]
    assert total["reference"] == total["matched"] > 0


@pytest.mark.slow
def test_adelaidets_r50_is_exported_and_detects_what_adelaidet_does(adelaidet_checkpoint: Path, tmp_path: Path) -> None:
    done = export("--weights", adelaidet_checkpoint, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    golden = np.load(GOLDEN / "adelaidet" / "coffee_seed0.npz")
    with Predictor(done.stdout.strip(), device="cpu") as predictor:
        (found,) = predictor([IMAGES / "coffee.png"])
    result = agreement(adelaidet_detections(golden, 0), found)
    assert result.reference_count > 70
    assert result.within(ONNX_TOLERANCE), result


# ---- what cannot be exported


def truncated(weights: Path) -> bytes:
    content = weights.read_bytes()
    return content[: len(content) // 2]


@pytest.fixture
def bad(weights: Path, tmp_path: Path) -> Path:
    """A folder of files that are not what they should be."""
    folder = tmp_path / "bad"
    folder.mkdir()
    (folder / "good.pth").symlink_to(weights)
    (folder / "truncated.pth").write_bytes(truncated(weights))
    content = torch.load(weights, weights_only=True)
    content["state_dict"]["fpn.p6.bias"][3] = float("nan")
    content["state_dict"]["head.scales.1"].fill_(float("inf"))
    torch.save(content, folder / "nan.pth")
    (folder / "two.txt").write_text("ant\nbee\n")
    (folder / "twice.txt").write_text("ant\nbee\nant\n")
    (folder / "latin.txt").write_bytes(b"ant\nb\xe9e\ncat\n")
    return folder


@pytest.mark.parametrize(
    ("arguments", "reasons", "status"),
    [
        (("--weights", "none.pth"), ["no checkpoint at none.pth"], 1),
        (("--weights", "truncated.pth"), ["truncated.pth", "is cut off at"], 1),
        (("--weights", "nan.pth"), ["nan.pth", "not finite: fpn.p6.bias", "not finite: head.scales.1"], 1),
        (("--weights", "good.pth", "--static", "128x224"), ["--static is '128x224'; expected BATCHxHEIGHTxWIDTH"], 2),
    ],
    ids=["missing", "truncated", "not finite", "wrong option"],
)
def test_what_cannot_be_exported_is_an_error_and_leaves_no_file(
    arguments: tuple[str, ...], reasons: list[str], status: int, bad: Path
) -> None:
    before = files(bad)
    done = export(*arguments, "--json", cwd=bad)
    assert (done.returncode, done.stdout) == (status, "")
    text = error_text(done)
    assert [reason for reason in reasons if reason not in text] == []
    assert files(bad) == before


def run_here(*arguments: str | Path, status: int = 2) -> str:
    """Run the command inside this process: it fails with one error, which is returned."""
    done = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert (done.exit_code, done.stdout) == (status, "")
    start = done.stderr.index("error:")
    return done.stderr[start:]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--static", "1x800"), "--static is '1x800'"),
        (("--static", "1x-32x32"), "--static is '1x-32x32'"),
        (("--static", "1x800x1344x3"), "--static is '1x800x1344x3'"),
        (("--static", "axbxc"), "--static is 'axbxc'"),
        (("--static", ""), "--static is ''"),
        (("--static", "0x32x32"), "the fixed shape is 0x32x32"),
        (("--static", "1x0x32"), "the fixed shape is 1x0x32"),
        (("--static", "1x32x33"), "the fixed shape is 1x32x33; expected BATCHxHEIGHTxWIDTH"),
        (("--max-detections", "0"), "max_detections is 0"),
        (("--score-threshold", "1.01"), "score_threshold is 1.01"),
        (("--score-threshold", "nan"), "score_threshold is nan"),
        (("--nms-iou", "-0.1"), "nms_iou is -0.1"),
        (("--candidates-per-level", "0"), "candidates_per_level is 0"),
        (("--class-names", "two.txt"), "2 class names given; the model has 3 classes"),
        (("--class-names", "latin.txt"), "latin.txt cannot be read as a list of class names"),
        (("--class-names", "."), ". is a folder; expected a text file with one class name a line"),
        (("--class-names", "a.json"), "a.json is a JSON file by its name; expected a text file with one class name"),
        (("--out", "."), "expected a name ending in .onnx"),
        (("--static", f"1x{'9' * 5000}x32"), "--static is '1x999"),
        (("--class-names", "twice.txt"), "twice.txt names 'ant' more than once"),
    ],
)
def test_an_option_that_cannot_be_used_is_an_error(
    options: tuple[str, ...], reason: str, bad: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(bad)
    before = files(bad)
    assert reason in run_here("--weights", "good.pth", *options)
    assert files(bad) == before


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--family", "adelaidet"), "good.pth is a model of the family mmdet; expected adelaidet"),
        (("--out", "two.txt/model.onnx"), "two.txt/model.onnx cannot be written"),
    ],
)
def test_a_file_that_does_not_fit_an_option_is_an_error(
    options: tuple[str, ...], reason: str, bad: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(bad)
    before = files(bad)
    assert reason in run_here("--weights", "good.pth", *options, status=1)
    assert files(bad) == before


def disagreeing(*_: Any) -> None:
    raise VerificationError("the two disagree. No file was written")


def full_disk(_: Any, path: str) -> None:
    Path(path).write_bytes(b"half of it")
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)


@pytest.mark.parametrize(
    ("module", "name", "replacement", "reason"),
    [
        (exporter, "verify_onnx", disagreeing, "the two disagree"),
        (onnx, "save", full_disk, "cannot be written (No space left on device)"),
    ],
    ids=["verification fails", "the disk is full"],
)
@pytest.mark.parametrize("earlier", [None, b"an earlier export"])
def test_an_export_that_fails_late_leaves_only_what_was_there(
    module: Any,
    name: str,
    replacement: Any,
    reason: str,
    earlier: bytes | None,
    bad: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(bad)
    monkeypatch.setattr(exporter, "onnx_from_model", lambda model, manifest: onnx.ModelProto())
    monkeypatch.setattr(exporter, "verify_onnx", lambda *_: verify.Verification(()))
    monkeypatch.setattr(module, name, replacement)
    if earlier is not None:
        Path("model.onnx").write_bytes(earlier)
    before = files(bad)
    assert reason in " ".join(run_here("--weights", "good.pth", "--out", "model.onnx", status=1).split())
    assert files(bad) == before
    if earlier is not None:
        assert Path("model.onnx").read_bytes() == earlier


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--weights",),
        ("--weights", "a.pth", "--max-detections", "few"),
        ("--weights", "a.pth", "--family", "yolact"),
        ("a.pth",),
        ("--wings",),
    ],
)
def test_wrong_usage_exits_with_two(arguments: tuple[str, ...], tmp_path: Path) -> None:
    done = export(*arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Error" in done.stderr
    assert files(tmp_path) == []


def test_the_weights_are_not_overwritten(bad: Path, weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(bad)
    monkeypatch.setattr(exporter, "onnx_from_model", lambda model, manifest: onnx.ModelProto())
    monkeypatch.setattr(exporter, "verify_onnx", lambda *_: verify.Verification(()))
    Path("mine.pth").write_bytes(weights.read_bytes())
    assert "mine.pth" in run_here("--weights", "mine.pth", "--out", "mine.pth")
    assert Path("mine.pth").read_bytes() == weights.read_bytes()
