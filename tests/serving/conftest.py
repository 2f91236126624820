"""A small model and images that the batch tests share, a bucket, and a local Ray of two workers."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from condinst_deploy.serving.ray_session import RayOptions, ray_session
from tests.support.batch_runs import save_small_model, write_images
from tests.support.exports import exported

# Ray otherwise ends workers as soon as all programs of the machine together fill 95 % of its memory
os.environ.setdefault("RAY_memory_monitor_refresh_ms", "0")


@pytest.fixture(scope="session")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_small_model(tmp_path_factory.mktemp("small") / "small.pth")


@pytest.fixture(scope="session")
def small_onnx(small_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small model for tests that start many workers: they load it in a tenth of the time, without PyTorch."""
    return exported(small_model, tmp_path_factory.mktemp("small_onnx") / "small.onnx")


@pytest.fixture(scope="session")
def ten_images(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Ten images, of which the sixth is damaged."""
    return write_images(tmp_path_factory.mktemp("ten"), 10, damaged=[5])


@pytest.fixture(params=["parquet", "coco"])
def form(request: pytest.FixtureRequest) -> str:
    """Format of the parts."""
    if request.param == "parquet":
        pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    return str(request.param)


@pytest.fixture(scope="session")
def s3() -> Iterator[Any]:
    """A file system of an S3 server of this process that listens on loopback; the environment names the server."""
    pytest.importorskip("moto", reason="moto is not installed (make ray-env)")
    s3fs = pytest.importorskip("s3fs", reason="s3fs is not installed (make ray-env)")
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "key")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        yield s3fs.S3FileSystem()
    server.stop()


@pytest.fixture(scope="session")
def ray(s3: Any) -> Iterator[Any]:
    """A local Ray for all tests; its workers reach the S3 server. Its processes end with the tests."""
    with ray_session(RayOptions(workers=2)) as connected:
        yield connected
