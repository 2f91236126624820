"""The wheel with the extra `engine` alone, in `.engine` (`make engine-env`): engines run without PyTorch.

Without a GPU everything up to the driver's first call is run there.
"""

import json
import os
import subprocess
from pathlib import Path

import pytest

from condinst_deploy.runtime.devices import driver_present

ENVIRONMENT = Path(os.environ.get("CONDINST_ENGINE_ENV", Path(__file__).parents[1] / ".engine"))
MOST_BYTES = 400 * 10**6

PREPARED = """
import json, sys
import numpy as np
from condinst_deploy.contract import ImageGeometry
from condinst_deploy.kernels.shipped import shipped_kernel
from condinst_deploy.runtime.cuda.gpu import Gpu
from condinst_deploy.runtime.decoded_image import DecodedLayout
from condinst_deploy.runtime.host_inputs import inputs_of_image
from condinst_deploy.runtime.tensorrt.backend import TensorRtBackend

image = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
geometry = ImageGeometry((48, 64), (96, 128), (96, 128))
layout = DecodedLayout.of(geometry)
memory = np.zeros(layout.nbytes, np.uint8)
layout.write(memory, image)
same = np.array_equal(layout.on_host(memory).images, inputs_of_image(image, geometry).images)
kernel = shipped_kernel("resize_kernel")
heavy = sorted({"torch", "triton", "onnxruntime", "onnx"} & set(sys.modules))
print(json.dumps([same, len(kernel.arguments), layout.numbers.grid, heavy]))
"""

pytestmark = pytest.mark.skipif(
    not (ENVIRONMENT / "bin/condinst-predict").exists(), reason="no .engine: make engine-env"
)


def run(code: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    command = [str(ENVIRONMENT / "bin/python"), "-c", code]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


def test_it_is_small() -> None:
    sizes = [path.lstat().st_size for path in ENVIRONMENT.rglob("*") if path.is_file() and not path.is_symlink()]
    assert sum(sizes) < MOST_BYTES


def test_neither_pytorch_nor_triton_nor_onnx_runtime_is_there(tmp_path: Path) -> None:
    for name in ("torch", "triton", "onnxruntime", "onnx"):
        assert run(f"import {name}", tmp_path).returncode == 1


def test_an_image_is_prepared_and_the_kernel_is_in_the_wheel(tmp_path: Path) -> None:
    done = run(PREPARED, tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [True, 12, [1, 24, 1], []]


@pytest.mark.skipif(driver_present(), reason="this machine has a driver")
def test_the_first_call_of_the_driver_says_what_is_missing(tmp_path: Path) -> None:
    code = (
        "from condinst_deploy.errors import BackendError\n"
        "from condinst_deploy.runtime.cuda.gpu import shared_gpu\n"
        "try:\n    shared_gpu(0)\nexcept BackendError as e:\n    print(e)\n"
    )
    done = run(code, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "NVIDIA driver" in done.stdout
