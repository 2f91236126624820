"""Kinds of model files, and messages for missing ones."""

import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from condinst_deploy.contract import artifacts
from condinst_deploy.contract.artifacts import (
    CHECKPOINT,
    ENGINE,
    ONNX,
    check_checkpoint,
    check_images,
    check_kind,
    check_precision_applies,
    check_text,
    check_there,
    kind_of,
    model_kind,
    precision_for,
)
from condinst_deploy.data.coco_file import coco_content
from condinst_deploy.doctor.model_file import file_checks
from condinst_deploy.doctor.probes import probe
from condinst_deploy.errors import ArtifactError, CheckpointError, CondInstError, ConfigError
from condinst_deploy.evaluation.sources import Source, check_sources
from condinst_deploy.evaluation.threshold_file import load_thresholds
from condinst_deploy.model.safe_load import load_checkpoint_file
from condinst_deploy.runtime.predictor import BACKENDS, load_backend
from condinst_deploy.training.train_options import TrainOptions
from condinst_engines.inspection import inspect_file
from condinst_export.export_options import checked_output


@pytest.mark.parametrize(
    ("name", "kind"),
    [("m.pth", CHECKPOINT), ("m.PT", CHECKPOINT), ("m.onnx", ONNX), ("m.engine", ENGINE), ("m.plan", ENGINE)],
)
def test_the_ending_tells_the_kind_in_any_case(name: str, kind: str) -> None:
    assert kind_of(Path(name)) == kind


@pytest.mark.parametrize("name", ["m", "m.jpg", ".onnx", "onnx", "m.onnx.json", "a\0b"])
def test_another_name_has_no_kind_and_is_left_to_its_reader(name: str) -> None:
    assert kind_of(Path(name)) is None
    check_there(Path(name))


def test_every_kind_has_a_backend_that_runs_it() -> None:
    assert all(kind_of(Path(f"m{ending}")) is not None for ending in BACKENDS)


@pytest.mark.parametrize(
    ("name", "kind", "error", "message"),
    [
        ("m.pt", None, CheckpointError, r"no checkpoint at .*m\.pt: give the path of a \.pt file"),
        ("m.jpg", CHECKPOINT, CheckpointError, r"no checkpoint at .*m\.jpg: give the path of a \.pth file"),
        ("m.onnx", None, ArtifactError, "no model at .*condinst-export"),
        ("m.plan", None, ArtifactError, "no engine at .*condinst-build-engine"),
        ("m.onnx", ENGINE, ArtifactError, "no engine at"),
    ],
)
def test_a_missing_file_is_named_with_what_writes_it(
    tmp_path: Path, name: str, kind: str | None, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        check_there(tmp_path / name, kind)
    (tmp_path / name).touch()
    check_there(tmp_path / name, kind)


def test_a_file_of_another_kind_is_named() -> None:
    with pytest.raises(
        ConfigError, match=r"--onnx is m\.pth, which is a checkpoint \(\.pth\) by its name; expected an"
    ):
        check_kind(Path("m.pth"), ONNX, "--onnx")
    with pytest.raises(ConfigError, match=r"--weights is m\.plan, which is an engine"):
        check_kind(Path("m.plan"), CHECKPOINT, "--weights")
    check_kind(Path("m.pt"), CHECKPOINT, "--weights")
    check_kind(Path("m.dat"), ONNX, "--onnx")


@pytest.mark.parametrize(
    ("name", "what"),
    [("a.png", "an image by its name"), ("m.onnx", r"an exported file \(\.onnx\) by its name"), ("folder", "a folder")],
)
def test_files_of_the_wrong_kind_are_wrong_usage_wherever_they_are_read(
    name: str, what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=f"^{name} is {what}; expected a COCO annotation file"):
        coco_content(Path(name))
    with pytest.raises(ConfigError, match=f"^{name} is {what}; expected the figures.json of condinst-eval"):
        load_thresholds(Path(name), Path("m.onnx"))
    with pytest.raises(ConfigError, match=f"^{name} is {what}; expected a COCO results file"):
        check_sources((Source(Path(name), is_model=False),), None, None)
    with pytest.raises(ConfigError, match=f"^--weights is {name}, which is {what}; expected a checkpoint"):
        check_kind(Path(name), CHECKPOINT, "--weights")


@pytest.mark.parametrize(
    ("name", "what"),
    [("a.png", "an image by its name"), ("x.txt", "a text file by its name"), ("x.dat", "of an unknown kind")],
)
def test_what_is_no_model_is_wrong_usage_for_every_reader_of_models(
    name: str, what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).touch()

    def diagnosed(path: Path) -> object:
        return file_checks(path, probe, ())

    for read in (load_backend, inspect_file, diagnosed):
        with pytest.raises(ConfigError, match=f"^{name} is {what}; expected a model, a file ending in .pth"):
            read(Path(name))


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("a.json", "a JSON file by its name"),
        ("r.TOML", r"a recipe \(\.toml\) by its name"),
        ("n.txt", "a text file by its name"),
        ("t.parquet", "a Parquet file by its name"),
        ("m.engine", r"an engine \(\.engine\) by its name"),
    ],
)
def test_files_of_any_kind_are_no_model_of_another_one(name: str, what: str) -> None:
    for kind in (CHECKPOINT, ONNX):
        with pytest.raises(ConfigError, match=f"^--model is {name}, which is {what}; expected a"):
            check_kind(Path(name), kind, "--model")


def test_text_is_read_and_replaced_only_in_files_that_may_be_text(tmp_path: Path) -> None:
    for name in ("names.txt", "names.lst", "names"):
        check_text(tmp_path / name, "text", ".txt")
    for name in ("m.pth", "m.onnx", "a.json", "r.toml", "i.png", "."):
        with pytest.raises(ConfigError, match=r" is a.*; expected text$"):
            check_text(tmp_path / name, "text", ".txt")


def test_a_model_among_images_is_named_with_what_to_do(tmp_path: Path) -> None:
    folder = tmp_path / "photos.plan"
    folder.mkdir()
    check_images(["i.png", "folder", "s3://bucket/*.jpg", folder, f"{folder}/", "a\0.png"], "--model {path}")
    with pytest.raises(ConfigError, match=r"^a\.PT is a model by its name and .*; expected --model a\.PT$"):
        check_images(["i.png", Path("a.PT")], "--model {path}")


def test_a_missing_file_of_no_known_kind_is_missing_for_every_reader_of_models(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for read in (load_backend, inspect_file, lambda path: file_checks(path, probe, ())):
        with pytest.raises(ArtifactError, match=r"^no file at nosuch; expected a model, a file ending in .pth"):
            read(Path("nosuch"))


def test_the_only_model_beside_a_missing_one_is_named(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    (tmp_path / "model.fp32.onnx").touch()
    with pytest.raises(ArtifactError, match=r"no model at .*/model\.onnx: .*\. There is .*/model\.fp32\.onnx$"):
        check_there(tmp_path / "model.onnx")
    with pytest.raises(CheckpointError, match=r"give the path of a \.pth file$"):  # there is none of that kind
        check_there(tmp_path / "model.pth")
    with pytest.raises(ConfigError, match=r"is a folder; expected a model, .*\. There is .*/model\.fp32\.onnx$"):
        model_kind(tmp_path)
    (tmp_path / "other.onnx").touch()
    with pytest.raises(ArtifactError, match=r"condinst-export --weights model\.pth$"):  # which one is not known
        check_there(tmp_path / "model.onnx")


@pytest.mark.parametrize(
    ("content", "what"), [(b"# Title\n\ntext", r"it begins with b'# Title\\n\\ntext'"), (b"", "it is empty")]
)
def test_a_file_that_does_not_begin_as_a_checkpoint_is_refused_before_pytorch_reads_it(
    content: bytes, what: str, tmp_path: Path
) -> None:
    path = tmp_path / "x.md"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"x\.md cannot be read as a PyTorch checkpoint \({what}\)"):
        check_checkpoint(path)
    with pytest.raises(CheckpointError, match="cannot be read as a PyTorch checkpoint"):
        checked_output(path, None)
    with pytest.raises(CheckpointError, match="cannot be read as a PyTorch checkpoint"):
        TrainOptions(weights=path)


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("kind", [dict, OrderedDict])
def test_a_pickle_that_is_not_torch_saves_is_named_with_what_to_do(
    kind: type[dict[str, Any]], protocol: int, tmp_path: Path
) -> None:
    for values in ({"a": torch.zeros(2)}, {"a": np.zeros(2)}, {"model": {"a": np.zeros(2)}}):
        (tmp_path / "m.pth").write_bytes(pickle.dumps(kind(values), protocol=protocol))
        with pytest.raises(CheckpointError, match=r"a pickle that torch\.save did not write; .* with torch\.save$"):
            check_checkpoint(tmp_path / "m.pth")


@pytest.mark.parametrize(
    ("protocol", "words"), [(0, "0 or 1"), (1, "0 or 1"), (2, None), (3, None), (4, "4"), (5, "5")]
)
def test_the_pickle_protocol_of_the_old_format_is_named(protocol: int, words: str | None, tmp_path: Path) -> None:
    path = tmp_path / "m.pth"
    torch.save({"a": torch.zeros(2)}, path, pickle_protocol=protocol, _use_new_zipfile_serialization=False)
    if words is None:
        assert list(load_checkpoint_file(path)) == ["a"]
        return
    with pytest.raises(CheckpointError, match=f"wrote with pickle_protocol={words}; .* again with torch.save"):
        check_checkpoint(path)


@pytest.mark.parametrize("start", [b"PK\x03\x04", b"\x80\x02", b"\0" * 257 + b"ustar"])
def test_all_forms_of_pytorch_pass_as_the_start_of_a_checkpoint(start: bytes, tmp_path: Path) -> None:
    (tmp_path / "weights").write_bytes(start + b"...")
    check_checkpoint(tmp_path / "weights")


def test_a_precision_is_for_checkpoints_alone() -> None:
    assert precision_for(Path("a.PTH"), "float16") == "float16"
    assert precision_for(Path("a.onnx"), "float16") is None
    check_precision_applies([Path("a.onnx"), Path("a.pt")], "float16")
    check_precision_applies([Path("a.onnx")], None)
    with pytest.raises(ConfigError, match="precision float16 is asked for, and no model is a checkpoint"):
        check_precision_applies([Path("a.onnx"), Path("a.engine")], "float16")


def _torch_file(path: Path, *, old: bool = False) -> Path:
    torch.save({"state_dict": {"a": torch.zeros(2)}}, path, _use_new_zipfile_serialization=not old)
    return path


def _contents(folder: Path, slim_onnx: Path) -> dict[str, tuple[Path, str | None]]:
    """A file of each kind with a name without meaning -> the kind that it is (None: none of a model)."""
    (folder / "page").write_text("<!DOCTYPE HTML><title>404</title>")
    (folder / "pointer").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n")
    (folder / "rtx").write_bytes(b"vtrt\0\0\0\0\2")  # as the builder in the tests of engines writes
    (folder / "trt").write_bytes(b"ftrt\0\0\0\0\2")
    Image.new("RGB", (8, 8)).save(folder / "jpeg", "JPEG")
    return {
        "an HTML page, as failed downloads are": (folder / "page", None),
        r"a pointer of Git LFS \(git lfs pull brings the file itself\)": (folder / "pointer", None),
        "a JPEG image": (folder / "jpeg", None),
        r"an engine \(\.engine\)": (folder / "rtx", ENGINE),
        r"an engine \(\.engine\) ": (folder / "trt", ENGINE),
        r"a checkpoint \(\.pth\)": (_torch_file(folder / "new"), CHECKPOINT),
        r"a checkpoint \(\.pth\) ": (_torch_file(folder / "old", old=True), CHECKPOINT),
        r"an exported file \(\.onnx\)": (slim_onnx, ONNX),
    }


@pytest.mark.parametrize("kind", [CHECKPOINT, ONNX, ENGINE])
def test_a_file_with_the_name_of_one_kind_and_the_content_of_another_is_named(
    kind: str, tmp_path: Path, slim_onnx: Path
) -> None:
    for number, (words, (content, own)) in enumerate(_contents(tmp_path, slim_onnx).items()):
        renamed = tmp_path / f"m{number}{kind}"
        renamed.write_bytes(content.read_bytes())
        if own == kind:
            check_there(renamed)
            continue
        with pytest.raises(CondInstError, match=rf"m{number}{kind} is {words.strip()} by its content; expected a"):
            check_there(renamed)
        with pytest.raises(CondInstError, match=rf"m{number}{kind} is {words.strip()} by its content; expected a"):
            load_backend(renamed, "cpu")


def test_a_model_under_a_name_of_no_kind_is_told_by_its_content(tmp_path: Path, slim_onnx: Path) -> None:
    (tmp_path / "model.bin").write_bytes(slim_onnx.read_bytes())
    with pytest.raises(ConfigError, match=r"unknown kind; it is an exported file \(\.onnx\) by its content, so rename"):
        load_backend(tmp_path / "model.bin")
    check_kind(_torch_file(tmp_path / "weights"), CHECKPOINT, "--weights")
    check_checkpoint(tmp_path / "weights")


def test_a_file_of_no_kind_that_cannot_be_read_is_refused_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_path: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    (tmp_path / "model.bin").touch()
    monkeypatch.setattr(artifacts, "start_of", refuse)  # root may read every file
    with pytest.raises(ConfigError, match=r"model\.bin is of an unknown kind; expected a model"):
        model_kind(tmp_path / "model.bin")
