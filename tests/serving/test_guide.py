"""Every command and every script of docs/batch.md, as it stands there."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from condinst_deploy.serving.ray_session import RayOptions, ray_session
from tests.support.batch_runs import COMMAND, command_environment, write_images

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("one_thread")]

GUIDE = Path(__file__).parents[2] / "docs" / "batch.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", GUIDE.read_text(), re.DOTALL)


@pytest.fixture(scope="module")
def place(slim_onnx: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, str], str]]:
    """A folder with a model and images, the variables of a bucket with the same images, and a cluster's address."""
    pytest.importorskip("moto", reason="moto is not installed (make ray-env)")
    s3fs = pytest.importorskip("s3fs", reason="s3fs is not installed (make ray-env)")
    from moto.server import ThreadedMotoServer

    folder = tmp_path_factory.mktemp("guide")
    (folder / "model.onnx").write_bytes(slim_onnx.read_bytes())
    paths = write_images(folder / "images", 6, damaged=[2], side=64)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    variables = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}
    variables["AWS_ENDPOINT_URL"] = f"http://{host}:{port}"
    filesystem = s3fs.S3FileSystem(key="key", secret="secret", endpoint_url=variables["AWS_ENDPOINT_URL"])
    filesystem.mkdir("bucket")
    filesystem.put([str(path) for path in paths], [f"bucket/images/{path.name}" for path in paths])
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)  # workers of the cluster have them from its processes
        with ray_session(RayOptions(workers=2)) as ray:
            address = ray.get_runtime_context().gcs_address
            yield folder, command_environment(**variables), address
    server.stop()


def test_every_command_of_the_guide_runs(place: tuple[Path, dict[str, str], str]) -> None:
    folder, environment, address = place
    commands = [line for block in blocks("sh") for line in block.splitlines() if line]
    assert len(commands) >= 5
    for line in commands:
        name, *arguments = shlex.split(line.replace("HEAD:6379", address))
        assert name == "condinst-batch"
        done = subprocess.run(
            [*COMMAND, *arguments],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert re.match(
            r"6 images, 1 of them with an error, \d+ detections in 1 new parts; 1 of 1 parts: ", done.stdout
        )
    assert len(list((folder / "coco").glob("part-*.json"))) == 1


def test_every_script_of_the_guide_runs(place: tuple[Path, dict[str, str], str]) -> None:
    folder, _, _ = place
    reading, dataset = blocks("python")
    if not (folder / "detections").exists():
        command = [*COMMAND, "images/", "--model", "model.onnx", "--out", "detections/"]
        subprocess.run(command, cwd=folder, env=command_environment(), check=True)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"}
    for script, expected in ((reading, 6), (dataset, 1)):
        done = subprocess.run(
            [sys.executable, "-c", script], cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        lines = [line for line in done.stdout.splitlines() if "images/" in line or "class" in line or "path" in line]
        assert len(lines) == expected
