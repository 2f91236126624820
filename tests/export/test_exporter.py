"""Exporting as one function call."""

import errno
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
from PIL import Image

from condinst_deploy.contract import ModelManifest
from condinst_deploy.contract.quantization import HeldOutAgreement, Quantization
from condinst_deploy.errors import CheckpointError, ConfigError, ImageError, OutputError, VerificationError
from condinst_deploy.model.checkpoints import save_model
from condinst_export import ExportOptions, ExportReports, export_model, exporter
from condinst_export.quantization.calibration_options import CalibrationOptions
from condinst_export.verify import Verification
from tests.support.models import TINY, manifest_of, noise_image, seeded_model

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    save_model(tmp_path / "tiny.pth", seeded_model(TINY), manifest_of(TINY))
    return tmp_path / "tiny.pth"


@pytest.fixture
def untraced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tracing and comparing take seconds; tests/cli/test_export.py has them whole."""
    monkeypatch.setattr(exporter, "onnx_from_model", lambda model, manifest: onnx.ModelProto())
    monkeypatch.setattr(exporter, "verify_onnx", lambda *_: Verification(()))


@pytest.mark.usefixtures("untraced")
def test_the_stages_are_reported_in_order_and_nothing_is_printed(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reported: list[str] = []
    reports = ExportReports(
        reported.append, lambda note, manifest: reported.append(f"{note}; {manifest.class_names[0]}")
    )
    exported = export_model(weights, tmp_path / "new" / "x.onnx", ExportOptions(class_names=("a", "b", "c")), reports)
    note = "condinst-deploy checkpoint, ResNet-18, 3 classes; a"
    assert reported == ["reading the checkpoint", note, "exporting the graph", "comparing"]
    assert exported.path == tmp_path / "new" / "x.onnx"
    assert exported.path.is_file()
    assert exported.manifest.category_ids == (1, 2, 3)
    assert exported.summary()["manifest"]["class_names"] == ("a", "b", "c")
    assert capsys.readouterr() == ("", "")


@pytest.mark.usefixtures("untraced")
def test_without_a_name_the_file_goes_below_the_current_directory(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert export_model(str(weights)).path == tmp_path / "export" / "build" / "tiny.onnx"


@pytest.mark.usefixtures("untraced")
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"out": "x.pth"}, ConfigError, r"expected a name ending in \.onnx"),
        ({"weights": "none.pth"}, CheckpointError, r"no checkpoint at none\.pth"),
        ({"options": ExportOptions(class_names=("a",))}, ConfigError, "^1 class name given; the model has 3"),
        ({"options": ExportOptions(family="adelaidet")}, CheckpointError, "of the family mmdet; expected adelaidet"),
    ],
)
def test_what_cannot_be_exported_writes_nothing(
    change: dict[str, Any], error: type[Exception], message: str, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(weights.parent)
    with pytest.raises(error, match=message):
        export_model(**({"weights": weights} | change))
    assert list(weights.parent.iterdir()) == [weights]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"nms_iou": 2.0}, "nms_iou is 2.0; expected a number from 0 to 1"),
        ({"score_threshold": -1.0}, "score_threshold is -1.0; expected a number from 0 to 1"),
        ({"max_detections": 0}, "max_detections is 0; expected a whole number"),
        ({"candidates_per_level": 0}, "candidates_per_level is 0; expected a whole number"),
    ],
)
def test_numbers_are_checked_before_a_checkpoint_is_read(setting: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ExportOptions(**setting)


@pytest.mark.usefixtures("untraced")
def test_a_file_that_disagrees_with_pytorch_is_not_written(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def disagree(*_: Any) -> None:
        raise VerificationError("the two disagree")

    monkeypatch.setattr(exporter, "verify_onnx", disagree)
    with pytest.raises(VerificationError):
        export_model(weights, weights.with_suffix(".onnx"))
    assert list(weights.parent.iterdir()) == [weights]


@pytest.mark.usefixtures("untraced")
def test_a_full_disk_is_found_before_the_comparison(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    stages: list[str] = []
    monkeypatch.setattr(onnx, "save", full)
    with pytest.raises(OutputError, match=r"x\.onnx cannot be written \(No space left"):
        export_model(weights, weights.with_name("x.onnx"), reports=ExportReports(stages.append))
    assert exporter.COMPARING not in stages
    assert list(weights.parent.iterdir()) == [weights]


def test_a_shape_that_the_network_cannot_have_is_refused() -> None:
    with pytest.raises(ConfigError, match="the fixed shape is 1x32x33"):
        replace(ExportOptions(), static_shape=(1, 32, 33))


def with_images(folder: Path, count: int, torn: bool = False) -> Path:
    folder.mkdir()
    for seed in range(count):
        Image.fromarray(noise_image(seed, 32, 32)).save(folder / f"{seed}.png")
    if torn:
        (folder / "torn.png").write_bytes(b"no image")
    return folder


@pytest.mark.parametrize(
    ("count", "torn", "error", "message"),
    [
        (0, False, ImageError, "has no images"),
        (1, False, ConfigError, "holds 1 image; expected at least 2"),
        (2, True, ImageError, r"torn\.png cannot be read: not an image in a known format"),
    ],
)
def test_a_calibration_folder_is_checked_before_the_checkpoint_is_read(
    count: int, torn: bool, error: type[Exception], message: str, weights: Path, tmp_path: Path
) -> None:
    stages: list[str] = []
    calibration = CalibrationOptions(with_images(tmp_path / "images", count, torn))
    with pytest.raises(error, match=message):
        export_model(weights, tmp_path / "x.int8.onnx", ExportOptions(int8=calibration), ExportReports(stages.append))
    assert stages == []
    assert not (tmp_path / "x.int8.onnx").exists()


@pytest.mark.usefixtures("untraced")
@pytest.mark.parametrize(("images", "few"), [(2, True), (20, False)])
def test_an_int8_file_that_few_images_judged_is_said_to_be_one(
    images: int, few: bool, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    agreement = HeldOutAgreement(images, 10, 10, 1.0, 0.9, 0.99)

    def quantised(proto: onnx.ModelProto, manifest: ModelManifest, *_: object) -> tuple[onnx.ModelProto, ModelManifest]:
        record = Quantization("int8", "mse", "images", 8, "0" * 64, 1, agreement=agreement)
        return proto, replace(manifest, quantization=record)

    monkeypatch.setattr(exporter, "int8_from_float32", quantised)
    monkeypatch.setattr(exporter, "quantized_convolutions", lambda *_: [])
    notes: list[str] = []
    options = ExportOptions(int8=CalibrationOptions(with_images(tmp_path / "images", 10)))
    export_model(weights, tmp_path / "x.int8.onnx", options, ExportReports(on_note=notes.append))
    assert any(f"matched on {images} held-out images" in note for note in notes)
    assert any(note.startswith(f"judged on {images} images only") for note in notes) == few


def test_patterns_of_layers_are_checked_before_the_comparison_with_pytorch(weights: Path, tmp_path: Path) -> None:
    stages: list[str] = []
    calibration = CalibrationOptions(with_images(tmp_path / "images", 2))
    options = ExportOptions(int8=calibration, keep_float=("nosuch*",))
    with pytest.raises(ConfigError, match=r"--keep-float 'nosuch\*' matches no convolution"):
        export_model(weights, tmp_path / "x.int8.onnx", options, ExportReports(stages.append))
    assert "comparing" not in stages
