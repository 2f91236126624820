"""Calls that run on a GPU alone, bound to the signatures of the installed libraries.

A wrong number or name of an argument would show there only. The calls are read from the sources; the signatures are
those of cuda.bindings, PyTorch, TensorRT for RTX (whose runtime is full TensorRT's) and ONNX Runtime.
"""

import ast
import inspect
import mmap
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import onnxruntime
import pytest
import torch

from condinst_deploy.runtime.cuda.driver import cuda_bindings
from condinst_deploy.runtime.onnxruntime_backend import AVOID_OVERFLOW, cuda_options
from condinst_deploy.runtime.onnxruntime_session import DO_NOT_WAIT
from condinst_deploy.runtime.tensorrt.engine import Engine
from condinst_deploy.runtime.tensorrt.execution_context import ExecutionContext

ROOT = Path(__file__).parents[2]
RUNTIME = ROOT / "condinst_deploy" / "runtime"
GRID = 3
"""Values of `*grid`."""


class Called(NamedTuple):
    """A call in a source."""

    name: str  # "torch.cuda.Event", "self._context.set_input_shape"
    positional: int
    keywords: tuple[str, ...]
    place: str


def calls_in(*paths: Path) -> Iterator[Called]:
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and all(word.arg is not None for word in node.keywords):
                given = sum(GRID if isinstance(each, ast.Starred) else 1 for each in node.args)
                words = tuple(str(word.arg) for word in node.keywords)
                place = f"{path.relative_to(ROOT)}:{node.lineno}"
                yield Called(ast.unparse(node.func), given, words, place)


def assert_binds(signature: inspect.Signature, call: Called, *, receiver: int = 0) -> None:
    given = [None] * (receiver + call.positional)
    try:
        signature.bind(*given, **dict.fromkeys(call.keywords))
    except TypeError as e:
        pytest.fail(f"{call.place}: {call.name} with {call.positional} values and {call.keywords}: {e}")


# ---- the driver


def test_calls_of_the_driver_have_its_parameters() -> None:
    cuda, seen = cuda_bindings(), set()
    for node in ast.walk(ast.parse((RUNTIME / "cuda" / "driver.py").read_text())):
        if not (isinstance(node, ast.Call) and ast.unparse(node.func) == "self._call"):
            continue
        name, *values = node.args
        if not (isinstance(name, ast.Constant) and isinstance(name.value, str)):
            continue
        given = sum(GRID if isinstance(each, ast.Starred) else 1 for each in values)
        assert_binds(inspect.signature(getattr(cuda, name.value)), Called(name.value, given, (), f"line {node.lineno}"))
        seen.add(name.value)
    assert len(seen) > 25


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("cuMemcpyHtoDAsync", ["dstDevice", "srcHost", "ByteCount", "hStream"]),
        ("cuMemcpyDtoHAsync", ["dstHost", "srcDevice", "ByteCount", "hStream"]),
        ("cuMemcpyDtoDAsync", ["dstDevice", "srcDevice", "ByteCount", "hStream"]),
        ("cuMemsetD8Async", ["dstDevice", "uc", "N", "hStream"]),
        ("cuMemHostAlloc", ["bytesize", "Flags"]),
        ("cuStreamCreateWithPriority", ["flags", "priority"]),
        ("cuStreamWaitEvent", ["hStream", "hEvent", "Flags"]),
        ("cuEventRecord", ["hEvent", "hStream"]),
        ("cuGraphLaunch", ["hGraphExec", "hStream"]),
        ("cuStreamBeginCapture", ["hStream", "mode"]),
        ("cuDeviceGetAttribute", ["attrib", "dev"]),
        ("cuDeviceGetName", ["length", "dev"]),
        ("cuModuleGetFunction", ["hmod", "name"]),
    ],
)
def test_the_drivers_parameters_are_in_the_order_in_which_they_are_given(name: str, parameters: list[str]) -> None:
    assert list(inspect.signature(getattr(cuda_bindings(), name)).parameters) == parameters


# ---- PyTorch

METHODS = {
    "capture_begin": torch.cuda.CUDAGraph,
    "capture_end": torch.cuda.CUDAGraph,
    "elapsed_time": torch.cuda.Event,
    "record_event": torch.cuda.Stream,
    "replay": torch.cuda.CUDAGraph,
    "wait_event": torch.cuda.Stream,
    "wait_stream": torch.cuda.Stream,
}


def torch_sources() -> list[Path]:
    folders = [RUNTIME, ROOT / "condinst_deploy" / "kernels", ROOT / "condinst_deploy" / "benchmarking"]
    return [path for folder in folders for path in folder.rglob("*.py")] + list((ROOT / "benchmarks").glob("gpu*.py"))


def test_calls_of_pytorchs_cuda_have_its_parameters() -> None:
    functions, methods = set(), set()
    for call in calls_in(*torch_sources()):
        prefix, _, name = call.name.rpartition(".")
        if prefix in ("torch.cuda", "torch.backends.cuda.matmul") and name:
            assert_binds(inspect.signature(getattr(torch.cuda, name)), call)
            functions.add(name)
        elif name in METHODS and "cuda" not in Path(call.place).parent.name:  # there they are the driver's
            assert_binds(inspect.signature(getattr(METHODS[name], name)), call, receiver=1)
            methods.add(name)
    assert functions >= {"CUDAGraph", "Event", "current_stream", "graph_pool_handle", "mem_get_info", "stream"}
    assert methods == set(METHODS)


def test_a_stream_of_pytorch_takes_device_and_priority() -> None:
    """`own_stream` calls it through a parameter."""
    inspect.signature(torch.cuda.Stream).bind(torch.device("cuda", 0), priority=-1)
    assert isinstance(torch.cuda.Stream.cuda_stream, property) or hasattr(torch.cuda.Stream, "cuda_stream")


# ---- TensorRT

OWNERS = {
    "self._context": "IExecutionContext",
    "context": "IExecutionContext",
    "self._engine": "ICudaEngine",
    "self._config": "IRuntimeConfig",
    "self._cache": "IRuntimeCache",
    "runtime": "Runtime",
}
"""Expression before the dot -> class of the library."""

RESULTS = {
    "deserialize": "bool",
    "execute_async_v3": "bool",
    "set_input_shape": "bool",
    "set_optimization_profile_async": "bool",
    "set_tensor_address": "bool",
    "update_device_memory_size_for_shapes": "int",
}
"""Method -> result that the runtime relies on."""


def tensorrt_signatures(owner: str, name: str, *, missing_allowed: bool = False) -> list[tuple[int, int, str]]:
    """Fewest and most parameters without `self`, and the result, of each overload, from the bindings' text."""
    import tensorrt_rtx

    kind = getattr(tensorrt_rtx, owner)
    if missing_allowed and not hasattr(kind, name):  # a method of a class of ours
        return []
    text = getattr(kind, name).__doc__ or ""
    found = []
    for parameters, result in re.findall(rf"{name}\(self: [\w.]+(.*?)\) -> ([\w.]+)", text):
        given = [each for each in parameters.split(", ") if ":" in each]
        found.append((sum("=" not in each for each in given), len(given), result))
    return found


def test_calls_of_tensorrts_runtime_have_its_parameters_and_results() -> None:
    seen = set()
    for call in calls_in(*(RUNTIME / "tensorrt").glob("*.py")):
        prefix, _, name = call.name.rpartition(".")
        ours = prefix == "self._engine" and name in vars(Engine)
        if prefix not in OWNERS or ours or (prefix == "context" and name in vars(ExecutionContext)):
            continue
        overloads = tensorrt_signatures(OWNERS[prefix], name)
        assert overloads, call
        assert any(low <= call.positional <= high for low, high, _ in overloads), (call, overloads)
        assert not call.keywords
        if name in RESULTS:
            assert {result for *_, result in overloads} == {RESULTS[name]}
        seen.add(name)
    assert seen >= RESULTS.keys() | {"create_execution_context", "set_device_memory", "set_runtime_cache", "serialize"}


BUILDER_OWNERS = {
    "builder": "Builder",
    "config": "IBuilderConfig",
    "made": "IOptimizationProfile",
    "network": "INetworkDefinition",
    "parser": "OnnxParser",
}
"""As `OWNERS`, in the code that builds engines."""


def test_no_result_of_tensorrt_is_dropped() -> None:
    """Its functions report failure by their result: false, None or a negative number."""
    folders = [(RUNTIME / "tensorrt", OWNERS), (ROOT / "engines" / "condinst_engines", BUILDER_OWNERS)]
    seen = set()
    for folder, owners in folders:
        for path in folder.rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)):
                    continue
                prefix, _, name = ast.unparse(node.value.func).rpartition(".")
                if prefix in owners and (overloads := tensorrt_signatures(owners[prefix], name, missing_allowed=True)):
                    assert {result for *_, result in overloads} == {"None"}, f"{path}:{node.lineno}: {name}"
                    seen.add(name)
    assert seen >= {"set_device_memory", "set_flag", "set_shape"}


# ---- ONNX Runtime


def library_with(name: str) -> Path:
    (found,) = Path(onnxruntime.__file__).parent.joinpath("capi").glob(name)
    return found


def test_onnx_runtimes_cuda_provider_knows_every_option() -> None:
    """It refuses an unknown one when a session is opened; its library holds their names."""
    library = library_with("libonnxruntime_providers_cuda.so")
    options = cuda_options(0, 4096)
    with library.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        for name in (*options, options["cudnn_conv_algo_search"]):
            assert content.find(name.encode()) >= 0, name


def test_onnx_runtime_knows_the_settings_of_sessions_and_runs() -> None:
    """An unknown setting is taken in silence. Longer names lie in the library in pieces."""
    library = library_with("onnxruntime_pybind11_state*.so")
    with library.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        for name in (DO_NOT_WAIT, AVOID_OVERFLOW, "session.intra_op.allow_spinning"):
            assert content.find(name.encode()) >= 0, name
        assert content.find(b"a_setting_that_is_not_there") < 0


def test_a_wrong_call_is_found(tmp_path: Path) -> None:
    source = ROOT / "tests" / "wrong_call.py"
    call = Called("torch.cuda.Event", 0, ("blocked",), str(source))
    with pytest.raises(pytest.fail.Exception, match="blocked"):
        assert_binds(inspect.signature(torch.cuda.Event), call)
    with pytest.raises(pytest.fail.Exception, match="too many"):
        assert_binds(inspect.signature(cuda_bindings().cuMemHostAlloc), Called("cuMemHostAlloc", 3, (), "here"))
