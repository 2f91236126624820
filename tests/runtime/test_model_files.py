"""Files, devices and closed models that cannot be used."""

from collections.abc import Callable
from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper

from condinst_deploy.contract import MANIFEST_KEY
from condinst_deploy.errors import ArtifactError, BackendError, CheckpointError, ConfigError, ImageError
from condinst_deploy.runtime import onnxruntime_backend
from condinst_deploy.runtime.cores import CpuThreads
from condinst_deploy.runtime.devices import Device
from condinst_deploy.runtime.predictor import Predictor, load_backend
from tests.support.batches import host_batch
from tests.support.models import SLIM, manifest_of
from tests.support.predictions import BACKENDS, IMAGE

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("name", ["model.txt", "model", "model.engine.bak", "."])
def test_a_file_of_an_unknown_kind_is_refused(name: str, tmp_path: Path) -> None:
    if name != ".":
        (tmp_path / name).touch()
    with pytest.raises(
        ConfigError,
        match=r"(unknown kind|a text file by its name|is a folder); expected .* \.pth, \.pt, \.onnx, \.engine, \.plan",
    ):
        Predictor(tmp_path / name)


def test_an_image_given_as_model_is_called_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"street\.JPG is an image by its name; expected a model, .* \.onnx"):
        Predictor(tmp_path / "street.JPG")


@pytest.mark.parametrize(("name", "error"), [("no.onnx", ArtifactError), ("no.pth", CheckpointError)])
def test_a_missing_file_is_refused_by_name(name: str, error: type[Exception], tmp_path: Path) -> None:
    with pytest.raises(error, match=str(tmp_path / name)):
        Predictor(tmp_path / name)


@pytest.mark.parametrize(("suffix", "error"), [(".onnx", ArtifactError), (".pth", CheckpointError)])
def test_a_name_that_no_file_can_have_is_refused(suffix: str, error: type[Exception], tmp_path: Path) -> None:
    with pytest.raises(error, match="xxx"):
        Predictor(tmp_path / ("x" * 300 + suffix))


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_a_truncated_onnx_file_is_refused(share: float, slim_onnx: Path, tmp_path: Path) -> None:
    whole = slim_onnx.read_bytes()
    path = tmp_path / "model.onnx"
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(ArtifactError, match="may be truncated or not an ONNX file") as caught:
        Predictor(path, device="cpu")
    assert str(path) in str(caught.value)


def tiny_onnx(path: Path, manifest: str | None) -> Path:
    """An identity, with or without a manifest."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "tiny", [x], [y])
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    if manifest is not None:
        proto.metadata_props.append(onnx.StringStringEntryProto(key=MANIFEST_KEY, value=manifest))
    onnx.save(proto, path)
    return path


def test_an_onnx_file_without_a_manifest_is_refused(tmp_path: Path) -> None:
    path = tiny_onnx(tmp_path / "model.onnx", None)
    with pytest.raises(ArtifactError, match=f"{path} is an ONNX file without this toolkit's manifest"):
        Predictor(path, device="cpu")


def test_an_onnx_file_of_other_inputs_and_outputs_is_refused(tmp_path: Path) -> None:
    path = tiny_onnx(tmp_path / "model.onnx", manifest_of(SLIM).to_json())
    with pytest.raises(ArtifactError, match=r"has the inputs and outputs x, y; expected images"):
        Predictor(path, device="cpu")


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ('"version":1', '"version":2', "has version 2; this release reads 1"),
        ('"version":1', '"version":"1"', "has version '1'"),
        (',"version":1', "", "has version None"),
        ('{"class_names"', '"class_names"', "not JSON"),
        ('"source":', '"sauce":', "sauce"),
        ('"class a",', "", "2 class names and 3 category ids"),
        ('"nms_iou":0.6', '"nms_iou":6', "nms_iou is 6"),
    ],
)
def test_a_manifest_that_cannot_be_used_is_refused(
    old: str, new: str, reason: str, slim_onnx: Path, tmp_path: Path
) -> None:
    proto = onnx.load(slim_onnx)
    (entry,) = [entry for entry in proto.metadata_props if entry.key == MANIFEST_KEY]
    assert entry.value.count(old) == 1
    entry.value = entry.value.replace(old, new)
    onnx.save(proto, tmp_path / "model.onnx")
    with pytest.raises(ArtifactError, match=reason) as caught:
        Predictor(tmp_path / "model.onnx", device="cpu")
    assert str(tmp_path / "model.onnx") in str(caught.value)


@pytest.mark.parametrize("text", [b"class a", b"images", b"mask_logits"])
def test_text_that_is_not_utf_8_is_refused(text: bytes, slim_onnx: Path, tmp_path: Path) -> None:
    path, content = tmp_path / "model.onnx", slim_onnx.read_bytes()
    assert text in content
    path.write_bytes(content.replace(text, b"\xff" + text[1:]))
    with pytest.raises(ArtifactError, match="not UTF-8") as caught:
        Predictor(path, device="cpu")
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("device", ["gpu", "cuda:x", "mps", "", "meta"])
def test_an_unknown_device_is_an_error(device: str, name: str, models: dict[str, Path]) -> None:
    with pytest.raises(ConfigError, match=f"device '{device}' is .* expected auto, cpu, cuda or cuda:N"):
        Predictor(models[name], device=device)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU that PyTorch can use")
@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("device", ["cuda", "cuda:0"])
def test_a_gpu_that_is_not_there_is_an_error(device: str, name: str, models: dict[str, Path]) -> None:
    with pytest.raises(BackendError, match=f"'{device}' was asked for.*device='cpu'"):
        Predictor(models[name], device=device)


@pytest.mark.parametrize("name", BACKENDS)
def test_a_gpu_beyond_the_last_is_an_error(name: str, models: dict[str, Path]) -> None:
    with pytest.raises(BackendError, match="'cuda:99' was asked for"):
        Predictor(models[name], device="cuda:99")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU that PyTorch can use")
def test_a_provider_that_falls_back_to_the_cpu_is_an_error(slim_onnx: Path) -> None:
    with pytest.raises(BackendError, match=r"CUDAExecutionProvider was asked for, but .* CPUExecutionProvider"):
        onnxruntime_backend.opened_session(slim_onnx.read_bytes(), "model.onnx", Device("cuda"), CpuThreads(), None)


def test_the_provider_that_runs_must_be_the_one_asked_for(slim_onnx: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime.InferenceSession, "get_providers", lambda self: ["OtherExecutionProvider"])
    with pytest.raises(BackendError, match=r"CPUExecutionProvider was asked for, but .* OtherExecutionProvider"):
        Predictor(slim_onnx, device="cpu")


def test_two_runtimes_in_one_folder_are_an_error(slim_onnx: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime_backend, "installed_versions", lambda names: dict.fromkeys(names, "1.0"))
    with pytest.raises(BackendError, match=r"both onnxruntime 1\.0 and onnxruntime-gpu 1\.0 are installed"):
        Predictor(slim_onnx, device="cpu")


EITHER = ["torch", "onnxruntime"]


def closed_by_call(path: Path) -> Predictor:
    predictor = Predictor(path, device="cpu")
    predictor.close()
    predictor.close()
    return predictor


def closed_by_with(path: Path) -> Predictor:
    with Predictor(path, device="cpu") as predictor:
        assert len(predictor([IMAGE])) == 1
    return predictor


def closed_by_an_error(path: Path) -> Predictor:
    with pytest.raises(ImageError), Predictor(path, device="cpu") as predictor:
        predictor("nothing.jpg")
    return predictor


@pytest.mark.parametrize("name", EITHER)
@pytest.mark.parametrize("closed", [closed_by_call, closed_by_with, closed_by_an_error])
def test_a_closed_predictor_does_not_run(
    closed: Callable[[Path], Predictor], name: str, models: dict[str, Path]
) -> None:
    predictor = closed(models[name])
    with pytest.raises(BackendError, match="closed; load it again"):
        predictor([IMAGE])


@pytest.mark.parametrize("name", EITHER)
def test_a_wrong_option_closes_the_model(name: str, models: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    backend = load_backend(models[name], "cpu")
    monkeypatch.setattr("condinst_deploy.runtime.predictor.load_backend", lambda *_, **__: backend)
    with pytest.raises(ConfigError):
        Predictor(models[name], classes=["no class of it"])
    inputs, _ = host_batch(backend, [IMAGE])
    with pytest.raises(BackendError, match="closed"):
        backend.forward(inputs)
