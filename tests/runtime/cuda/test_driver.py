"""The real driver as far as a machine without a GPU goes, and every call that it makes exists in the bindings."""

import ast
import inspect

import pytest

from condinst_deploy.errors import BackendError
from condinst_deploy.runtime.cuda import driver as module
from condinst_deploy.runtime.cuda.driver import STICKY, CudaDriver, CudaError, Driver, cuda_bindings
from condinst_deploy.runtime.cuda.gpu import shared_gpu
from condinst_deploy.runtime.devices import driver_present
from tests.support.strict_driver import StrictDriver


@pytest.mark.skipif(driver_present(), reason="this machine has a GPU")
def test_without_a_driver_it_says_so() -> None:
    with pytest.raises(BackendError, match="no NVIDIA driver is loaded on this machine"):
        shared_gpu(0)


def test_every_function_is_in_the_bindings() -> None:
    tree = ast.parse(inspect.getsource(module))
    names = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    calls = {name for name in names if name.startswith("cu") and name[2:3].isupper()}
    assert len(calls) > 25
    assert calls <= set(dir(cuda_bindings()))


def test_every_error_that_stays_is_in_the_bindings() -> None:
    assert set(cuda_bindings().CUresult.__members__) >= STICKY


@pytest.mark.parametrize("made", [CudaDriver, StrictDriver])
def test_driver_and_double_have_the_protocols_calls(made: type) -> None:
    calls = {name: member for name, member in vars(Driver).items() if inspect.isfunction(member) and name[0] != "_"}
    assert len(calls) > 20
    for name, member in calls.items():
        found, wanted = (list(inspect.signature(each).parameters) for each in (getattr(made, name), member))
        assert found == wanted


def test_an_error_says_whether_the_process_can_go_on() -> None:
    assert str(CudaError("cuMemAlloc", "CUDA_ERROR_OUT_OF_MEMORY")) == "cuMemAlloc fails with CUDA_ERROR_OUT_OF_MEMORY"
    assert str(CudaError("cuEventSynchronize", "CUDA_ERROR_ILLEGAL_ADDRESS")).endswith("start a new process")
