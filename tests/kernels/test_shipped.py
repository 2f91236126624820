"""The kernels inside the package are those of the sources, and every architecture assembles them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from condinst_deploy.kernels.aot import resize_source
from condinst_deploy.kernels.ptx import parameters_of
from condinst_deploy.kernels.shipped import FOLDER, shipped_kernel
from tests.support.ptx_resources import resources_of

ROOT = Path(__file__).parents[2]
ARCHITECTURES = (75, 80, 86, 89, 90, 100, 120)


def test_the_compiled_kernels_are_those_of_the_sources(tmp_path: Path) -> None:
    """Built again, byte for byte; else run `make kernels`."""
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "TRITON_CACHE_DIR": str(tmp_path / "cache")}
    command = [sys.executable, "-m", "condinst_deploy.kernels.build_shipped", str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    names = {path.name for path in FOLDER.iterdir()}
    assert names == {path.name for path in tmp_path.iterdir() if path.is_file()}
    for name in names:
        assert (tmp_path / name).read_text() == (FOLDER / name).read_text(), f"{name} is old: run make kernels"


def test_no_path_of_a_machine_is_inside() -> None:
    for path in FOLDER.iterdir():
        assert not any(word in path.read_text() for word in (".file", ".loc", ".py", "/home", "debug")), path


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_assembles_the_resizing_kernel_without_spills(architecture: int) -> None:
    kernel = shipped_kernel("resize_kernel")
    assert resources_of(kernel.ptx.decode(), f"sm_{architecture}").spilled_bytes == 0


def test_the_index_says_what_the_ptx_takes() -> None:
    kernel = shipped_kernel("resize_kernel")
    types = {"pointer": "u64", "i32": "u32"}
    assert parameters_of(kernel.ptx.decode()) == [types[kind] for kind in kernel.arguments]
    assert len(kernel.arguments) == len(resize_source().arguments)
    assert f".reqntid {kernel.threads}" in kernel.ptx.decode()


def test_a_kernel_that_is_not_there_is_an_error() -> None:
    with pytest.raises(KeyError):
        shipped_kernel("another_kernel")
