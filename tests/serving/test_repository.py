"""Model repositories: their files, the server's configuration, and what is refused."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from condinst_deploy.contract.engine_manifest import EngineManifest, EngineTensor, write_engine
from condinst_deploy.errors import ArtifactError, ConfigError, OutputError
from condinst_deploy.runtime.cores import CpuThreads, usable_cores
from condinst_deploy.serving.triton.config_text import Word, config_text
from condinst_deploy.serving.triton.configurations import network_model_config
from condinst_deploy.serving.triton.repository import write_repository
from condinst_deploy.serving.triton.repository_settings import RepositoryOptions, ServerSettings
from tests.support.engines import MANIFEST, PLAN

GPU = RepositoryOptions(layout="ensemble", device="cuda", network_backend="tensorrt")


def engine_at(folder: Path, manifest: EngineManifest = MANIFEST) -> Path:
    path = folder / "model.engine"
    write_engine(path, PLAN, manifest)
    return path


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_text_format() -> None:
    values: dict[str, Any] = {
        "name": 'a "b" \\ \n',
        "kind": Word("KIND_CPU"),
        "on": True,
        "count": 3,
        "dims": [1, -1],
        "shape": [],
        "inner": {"x": 1},
        "input": [{"name": "é"}, {"name": "b"}],
    }
    assert config_text(values) == (
        'name: "a \\"b\\" \\\\ \\n"\n'
        "kind: KIND_CPU\n"
        "on: true\n"
        "count: 3\n"
        "dims: [ 1, -1 ]\n"
        "shape: [ ]\n"
        "inner {\n  x: 1\n}\n"
        'input {\n  name: "\\303\\251"\n}\n'
        'input {\n  name: "b"\n}\n'
    )


def test_the_single_layout_has_one_model_with_everything(slim_onnx: Path, tmp_path: Path) -> None:
    out = write_repository(slim_onnx, tmp_path / "repo")
    assert files(out) == [
        "README.md",
        "condinst/1/condinst.json",
        "condinst/1/model.py",
        f"condinst/1/{slim_onnx.name}",
        "condinst/config.pbtxt",
    ]
    settings = ServerSettings.read(out / "condinst/1")
    assert settings.model == slim_onnx.name
    assert (out / "condinst/1" / settings.model).read_bytes() == slim_onnx.read_bytes()
    assert not list(tmp_path.glob(".*"))


def test_the_other_layout_keeps_the_network_apart(slim_onnx: Path, tmp_path: Path) -> None:
    options = RepositoryOptions(layout="ensemble", network_backend="onnxruntime", version=7)
    out = write_repository(slim_onnx, tmp_path / "repo", options)
    assert files(out) == [
        "README.md",
        "condinst/7/condinst.json",
        "condinst/7/model.py",
        "condinst/config.pbtxt",
        "condinst_network/7/model.onnx",
        "condinst_network/config.pbtxt",
    ]
    assert ServerSettings.read(out / "condinst/7").model == ""


def test_an_engine_is_a_plan_for_the_servers_own_backend(tmp_path: Path) -> None:
    engine = engine_at(tmp_path, replace(MANIFEST, flavour="tensorrt"))
    out = write_repository(engine, tmp_path / "repo", GPU)
    assert (out / "condinst_network/1/model.plan").read_bytes() == PLAN
    text = (out / "condinst_network/config.pbtxt").read_text()
    assert 'platform: "tensorrt_plan"' in text
    assert "max_batch_size: 8" in text  # the largest of the engine's profiles
    assert "kind: KIND_GPU" in text
    assert "TYPE_FP16" in text  # mask_logits of this engine
    assert "compute capability 86, 120" in (out / "README.md").read_text()


def test_an_engine_inside_travels_with_its_manifest(tmp_path: Path) -> None:
    out = write_repository(engine_at(tmp_path), tmp_path / "repo", RepositoryOptions(device="cuda", max_batch=64))
    assert {"condinst/1/model.engine", "condinst/1/model.engine.json"} <= set(files(out))
    assert "max_batch_size: 8" in (out / "condinst/config.pbtxt").read_text()


def test_the_networks_tensors_are_those_of_the_manifest() -> None:
    manifest = replace(MANIFEST.model, selection=replace(MANIFEST.model.selection, max_detections=17))
    engine = replace(MANIFEST, tensors=(EngineTensor("mask_logits", "output", "float32", (-1, 17, -1, -1)),))
    config = network_model_config(GPU, manifest, engine)
    shapes = {tensor["name"]: tensor["dims"] for tensor in (*config["input"], *config["output"])}
    assert shapes["images"] == [3, -1, -1]
    assert shapes["boxes"] == [17, 4]
    assert shapes["mask_logits"] == [17, -1, -1]
    assert config["output"][-1]["data_type"] == "TYPE_FP32"
    assert config["output"][0]["reshape"] == {"shape": []}


@pytest.mark.parametrize(
    ("options", "flavour", "reason"),
    [
        (RepositoryOptions(), "rtx", "an engine runs on a GPU: give --device cuda"),
        (GPU, "rtx", "which the server's TensorRT backend does not load"),
        (replace(GPU, network_backend="onnxruntime"), "tensorrt", "needs an .onnx file"),
    ],
)
def test_an_engine_with_options_that_do_not_fit(
    options: RepositoryOptions, flavour: str, reason: str, tmp_path: Path
) -> None:
    engine = engine_at(tmp_path, replace(MANIFEST, flavour=flavour))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=reason):
        write_repository(engine, tmp_path / "repo", options)
    assert not (tmp_path / "repo").exists()


def test_an_onnx_file_is_no_plan(slim_onnx: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="needs an engine"):
        write_repository(slim_onnx, tmp_path / "repo", replace(GPU, device="cpu"))


def test_a_checkpoint_is_not_served(slim_checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"is a checkpoint \(\.pth\) by its name; .* ending in \.onnx, .*\.plan$"):
        write_repository(slim_checkpoint, tmp_path / "repo")


def test_nothing_is_written_over(slim_onnx: Path, tmp_path: Path) -> None:
    (tmp_path / "repo").mkdir()
    (tmp_path / "repo/mine.txt").write_text("x")
    with pytest.raises(OutputError, match="not an empty folder"):
        write_repository(slim_onnx, tmp_path / "repo")
    assert files(tmp_path / "repo") == ["mine.txt"]
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="not an empty folder"):
        write_repository(slim_onnx, tmp_path / "file")
    with pytest.raises(OutputError, match="cannot be written"):
        write_repository(slim_onnx, tmp_path / "file" / "repo")


@pytest.mark.parametrize(
    "values",
    [
        {"layout": "two"},
        {"device": "tpu"},
        {"instances": 0},
        {"max_batch": 10**9},
        {"max_batch": True},
        {"delay_ms": -1.0},
        {"delay_ms": float("nan")},
        {"network_backend": "openvino"},
        {"version": 0},
    ],
)
def test_options_out_of_range(values: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(values))):
        RepositoryOptions(**values)  # type: ignore[arg-type]


@pytest.mark.parametrize("instances", [1, 2, 64])
def test_instances_on_the_cpu_share_its_cores_and_sleep_between_runs(
    instances: int, slim_onnx: Path, tmp_path: Path
) -> None:
    out = write_repository(slim_onnx, tmp_path / "repo", RepositoryOptions(instances=instances))
    threads = ServerSettings.read(out / "condinst/1").threads
    assert threads == CpuThreads(max(1, usable_cores() // instances), spin=False)


@pytest.mark.parametrize("text", ["", "[]", '{"model": "x"}', '{"manifest": 3}'])
def test_settings_that_cannot_be_read(text: str, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="condinst-triton-repo"):
        ServerSettings.read(tmp_path)
    (tmp_path / "condinst.json").write_text(text)
    with pytest.raises(ArtifactError, match="condinst-triton-repo"):
        ServerSettings.read(tmp_path)


def test_a_model_beside_the_settings_is_named_without_a_folder(slim_onnx: Path, tmp_path: Path) -> None:
    out = write_repository(slim_onnx, tmp_path / "repo")
    path = out / "condinst/1/condinst.json"
    values = json.loads(path.read_text())
    path.write_text(json.dumps(values | {"model": "../../../etc/passwd"}))
    assert ServerSettings.read(path.parent).model == "passwd"


def test_a_model_whose_name_is_no_text_is_served(slim_onnx: Path, tmp_path: Path) -> None:
    name = os.fsdecode(b"a\xff`\n# b.onnx")
    shutil.copyfile(slim_onnx, tmp_path / name)
    out = write_repository(tmp_path / name, tmp_path / "repo")
    assert (out / "README.md").read_text().startswith("# Model repository of a\\udcff\\n# b.onnx\n\n")
    assert ServerSettings.read(out / "condinst/1").model == name
    assert (out / "condinst/1" / name).stat().st_size == slim_onnx.stat().st_size
