"""Exporting as one function call."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest

from condinst_deploy.errors import CheckpointError, ConfigError, VerificationError
from condinst_deploy.model.checkpoints import save_model
from condinst_export import ExportOptions, ExportReports, export_model, exporter
from condinst_export.verify import Verification
from tests.support.models import TINY, manifest_of, seeded_model

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
        ({"options": ExportOptions(class_names=("a",))}, ConfigError, "1 class names were given; the model has 3"),
        ({"options": ExportOptions(family="adelaidet")}, CheckpointError, "of the family mmdet; expected adelaidet"),
        ({"options": ExportOptions(nms_iou=2.0)}, ConfigError, "nms_iou is 2.0; expected a number from 0 to 1"),
    ],
)
def test_what_cannot_be_exported_writes_nothing(
    change: dict[str, Any], error: type[Exception], message: str, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(weights.parent)
    with pytest.raises(error, match=message):
        export_model(**({"weights": weights} | change))
    assert list(weights.parent.iterdir()) == [weights]


@pytest.mark.usefixtures("untraced")
def test_a_file_that_disagrees_with_pytorch_is_not_written(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def disagree(*_: Any) -> None:
        raise VerificationError("the two disagree")

    monkeypatch.setattr(exporter, "verify_onnx", disagree)
    with pytest.raises(VerificationError):
        export_model(weights, weights.with_suffix(".onnx"))
    assert list(weights.parent.iterdir()) == [weights]


def test_a_shape_that_the_network_cannot_have_is_refused() -> None:
    with pytest.raises(ConfigError, match="the fixed shape is 1x32x33"):
        replace(ExportOptions(), static_shape=(1, 32, 33))
