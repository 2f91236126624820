"""Configurations for backends of GPU servers: Triton's own protobuf reads them, and a real server loads them."""

import hashlib
import json
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from condinst_deploy.contract.engine_manifest import EngineManifest, write_engine
from condinst_deploy.serving import Client
from condinst_deploy.serving.protocol import MODEL, NETWORK
from condinst_deploy.serving.triton.repository import write_repository
from condinst_deploy.serving.triton.repository_settings import RepositoryOptions
from tests.support.engine_manifests import engine_manifest, image_profile
from tests.support.models import SLIM, manifest_of, noise_image
from tests.support.triton_server import ENVIRONMENT, missing, running

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())

TENSORRT = RepositoryOptions(
    layout="ensemble", device="cuda", network_backend="tensorrt", instances=2, cuda_graphs=True, max_batch=16
)
ONNX_RUNTIME = RepositoryOptions(layout="ensemble", network_backend="onnxruntime", delay_ms=2.5)
PROFILES = (image_profile((1, 320, 320), (1, 800, 1344)), image_profile((1, 320, 320), (8, 640, 640)))
PLAN = b"a plan"

READER = """
import json, sys
from google.protobuf import json_format, text_format
from tritonclient.grpc import model_config_pb2
for path in sys.argv[1:]:
    config = text_format.Parse(open(path, encoding="utf-8").read(), model_config_pb2.ModelConfig())
    print(json.dumps(json_format.MessageToDict(config, preserving_proto_field_name=True)))
"""


def parsed(repository: Path) -> dict[str, dict[str, Any]]:
    """Every configuration of a repository as Triton's protobuf reads it; an unknown field is an error there."""
    paths = sorted(repository.glob("*/config.pbtxt"))
    command = [str(ENVIRONMENT / "bin/python"), "-c", READER, *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return {path.parent.name: json.loads(line) for path, line in zip(paths, done.stdout.splitlines(), strict=True)}


def tensorrt_repository(folder: Path, manifest: EngineManifest | None = None) -> Path:
    """A repository of an engine that no library reads."""
    engine = folder / "model.engine"
    digest = hashlib.sha256(PLAN).hexdigest()
    write_engine(
        engine, PLAN, replace(manifest or engine_manifest(*PROFILES), plan_sha256=digest, plan_bytes=len(PLAN))
    )
    return write_repository(engine, folder / "repo", TENSORRT)


def test_a_plan_with_cuda_graphs(tmp_path: Path) -> None:
    found = parsed(tensorrt_repository(tmp_path))
    assert found.keys() == {MODEL, NETWORK}
    network = found[NETWORK]
    assert (network["platform"], network["backend"]) == ("tensorrt_plan", "tensorrt")
    assert network["max_batch_size"] == 8  # the largest of the engine's profiles
    (group,) = network["instance_group"]
    assert (group["kind"], group["count"], group["profile"]) == ("KIND_GPU", 2, ["0", "1"])
    cuda = network["optimization"]["cuda"]
    assert cuda["graphs"] is True
    assert [(spec["batch_size"], spec["input"]["images"]["dim"]) for spec in cuda["graph_spec"]] == [
        (1, ["3", "800", "1344"]),
        (8, ["3", "640", "640"]),
    ]
    assert [warm_up["batch_size"] for warm_up in network["model_warmup"]] == [1, 8]
    assert network["model_warmup"][1]["inputs"]["images"]["dims"] == ["3", "640", "640"]
    assert network["output"][-1]["data_type"] == "TYPE_FP16"
    assert "reshape" in network["output"][0]  # to no dimensions: (B,) in the network


def test_every_layout_is_read(slim_onnx: Path, tmp_path: Path) -> None:
    for number, options in enumerate(
        (RepositoryOptions(), ONNX_RUNTIME, replace(ONNX_RUNTIME, network_backend="python"))
    ):
        for name, config in parsed(write_repository(slim_onnx, tmp_path / str(number), options)).items():
            assert config["name"] == name
            assert config["version_policy"] == {"latest": {"num_versions": 1}}
            assert config["instance_group"][0]["rate_limiter"] == {"priority": 1}
            batching = config["dynamic_batching"]
            assert int(batching["max_queue_delay_microseconds"]) == round(1000 * options.delay_ms)
            bounded = {"max_queue_size": options.limits.queued_requests} if name == MODEL else None
            assert batching.get("default_queue_policy") == bounded


def test_class_names_of_any_characters_survive(tmp_path: Path) -> None:
    names = ('a "quoted" name', "back\\slash", "日本語", "new\nline")
    manifest = replace(manifest_of(), class_names=names, category_ids=(1, 2, 3, 4))
    config = parsed(tensorrt_repository(tmp_path, engine_manifest(*PROFILES, model=manifest)))[MODEL]
    text = config["parameters"]["condinst_manifest"]["string_value"]
    assert tuple(json.loads(text)["class_names"]) == names


def test_a_field_that_triton_does_not_know_is_an_error(tmp_path: Path) -> None:
    repository = tensorrt_repository(tmp_path)
    path = repository / NETWORK / "config.pbtxt"
    path.write_text(path.read_text().replace("graph_spec", "graph_specification"))
    with pytest.raises(AssertionError, match="graph_specification"):
        parsed(repository)


@pytest.mark.parametrize("backend", ["tensorrt", "onnxruntime"])
def test_a_real_server_loads_them_with_another_backend(backend: str, slim_onnx: Path, tmp_path: Path) -> None:
    """The server for CPUs has neither backend: its Python backend runs the network behind the same configuration."""
    options = RepositoryOptions(layout="ensemble", max_batch=4)
    repository = write_repository(slim_onnx, tmp_path / "repo", options)
    if backend == "tensorrt":
        # what runs is the ONNX file, whose logits are float32
        engine = engine_manifest(image_profile((1, 32, 32), (4, 96, 128)), model=manifest_of(SLIM), logits="float32")
        (tmp_path / "other").mkdir()
        other = tensorrt_repository(tmp_path / "other", engine)
    else:
        other = write_repository(slim_onnx, tmp_path / "other", ONNX_RUNTIME)
    text = (other / NETWORK / "config.pbtxt").read_text().replace("KIND_GPU", "KIND_CPU")
    # the server refuses profiles for anything but TensorRT
    text = "".join(line for line in text.splitlines(keepends=True) if not line.strip().startswith("profile:"))
    assert f'backend: "{backend}"' in text
    text = text.replace(f'backend: "{backend}"', 'backend: "python"').replace('platform: "tensorrt_plan"', "")
    (repository / NETWORK / "config.pbtxt").write_text(text)
    with running(repository, tmp_path) as server, Client(server.http) as client:
        assert len(client([noise_image(0, 64, 64)])) == 1
