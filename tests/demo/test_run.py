"""The demonstration: on the model that ships, and on a user's own model and images."""

from pathlib import Path

import pytest
from PIL import Image

from condinst_deploy import ImageError, Predictor
from demo import run
from tests.support.models import noise_image


@pytest.fixture
def exports(slim_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Exported files; the checkpoint stands for its export, which has its own tests."""
    done: list[Path] = []
    monkeypatch.setattr(run, "export", lambda weights, out: done.append(weights))
    monkeypatch.setattr(run, "Predictor", lambda path: Predictor(slim_checkpoint, device="cpu"))
    return done


def test_an_image_that_cannot_be_read_is_named_and_the_others_go_on(
    exports: list[Path], slim_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = tmp_path / "pictures"
    images.mkdir()
    for i, name in enumerate(("a.png", "c.png")):
        Image.fromarray(noise_image(i, 90, 120)).save(images / name)
    (images / "b.png").write_bytes((images / "a.png").read_bytes()[:500])
    assert run.demonstrate(slim_checkpoint, images, tmp_path / "output")
    out = capsys.readouterr().out
    assert f"skipped: {images / 'b.png'} cannot be decoded" in out
    assert exports == [slim_checkpoint]
    assert (tmp_path / "output" / "detections.jpg").is_file()


def test_images_that_are_not_there_are_told_before_the_export(
    exports: list[Path], slim_checkpoint: Path, tmp_path: Path
) -> None:
    with pytest.raises(ImageError, match=r"no image at .*nope"):
        run.demonstrate(slim_checkpoint, tmp_path / "nope", tmp_path / "output")
    assert not exports


def test_without_any_readable_image_there_is_nothing_to_show(
    exports: list[Path], slim_checkpoint: Path, tmp_path: Path
) -> None:
    (tmp_path / "a.png").write_text("no image")
    with pytest.raises(ImageError, match="none of 1 image"):
        run.demonstrate(slim_checkpoint, tmp_path / "a.png", tmp_path / "output")
    assert len(exports) == 1


@pytest.mark.parametrize(("other", "status"), [("shipped", 0), ("slim", 1)])
def test_the_shipped_model_runs_on_generated_images_and_has_to_agree_with_pytorch(
    other: str,
    status: int,
    exports: list[Path],
    slim_checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    files = {".onnx": {"shipped": run.SHIPPED, "slim": slim_checkpoint}[other], ".pth": run.SHIPPED}
    monkeypatch.setattr(run, "Predictor", lambda path: Predictor(files[path.suffix], device="cpu"))
    monkeypatch.setattr("sys.argv", ["demo"])
    assert run.main(tmp_path / "output", unseen=3) == status
    assert exports == [run.SHIPPED]
    out = capsys.readouterr().out
    assert "3 images generated that the model has never seen" in out
    (line,) = [line for line in out.splitlines() if "mask AP " in line]
    precision = float(line.split("mask AP ")[1].split(",")[0])
    assert (precision > 0.4) is (status == 0)
    assert len(list((tmp_path / "output" / "unseen" / "val").glob("*.png"))) == 3
    assert (tmp_path / "output" / "detections.jpg").is_file()
