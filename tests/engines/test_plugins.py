"""The plugins without TensorRT: their PTX, their registration against a recorder, and what ends up in a graph."""

import re
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from condinst_deploy.errors import EngineError
from condinst_deploy.kernels.aot import KernelSource, mask_head_source, select_source
from condinst_deploy.kernels.ptx import parameters_of, without_hidden_parameters
from condinst_deploy.kernels.select import warps_of
from condinst_engines.plugins import mask_head, select
from condinst_engines.plugins.plugin_kernels import plugin_kernel
from tests.support.ptx_resources import resources_of

SOURCES = {
    "mask head, float32": mask_head_source("float32", 8, 8),
    "mask head, float16": mask_head_source("float16", 8, 8),
    "mask head, bfloat16": mask_head_source("bfloat16", 8, 8),
    "mask head, 16 hidden, float32": mask_head_source("float32", 16, 16),
    "mask head, 16 hidden, float16": mask_head_source("float16", 16, 16),
    "mask head, 16 hidden, bfloat16": mask_head_source("bfloat16", 16, 16),
    "select": select_source(0.6, 8192),
}
POINTER, NUMBER = "u64", "u32"
PARAMETERS = {
    "mask head": [POINTER] * 4 + [NUMBER] * 3 + [POINTER],
    "select": [POINTER] * 3 + [NUMBER] * 2 + [POINTER] * 2,
}


@pytest.mark.parametrize("name", SOURCES)
def test_the_ptx_is_portable_and_has_the_parameters_that_tensorrt_passes(name: str) -> None:
    kernel = plugin_kernel(SOURCES[name])
    assert re.search(r"^\.version 8\.0$", kernel.ptx, re.MULTILINE)
    assert re.search(r"^\.target sm_80$", kernel.ptx, re.MULTILINE)
    assert parameters_of(kernel.ptx) == PARAMETERS[name.split(",")[0]]
    assert f".entry {kernel.name}(" in kernel.ptx
    assert kernel.shared_bytes <= 48 << 10
    for architecture in ("sm_80", "sm_90", "sm_100", "sm_120"):
        assert resources_of(kernel.ptx, architecture).registers * kernel.threads <= 65536


PTX = """.version 8.0
.target sm_80
.visible .entry add(
\t.param .u64 .ptr .global .align 1 add_param_0,
\t.param .u32 add_param_1,
\t.param .u64 .ptr .global .align 1 add_param_2,
\t.param .u64 .ptr .global .align 1 add_param_3
)
{
\tld.param.b64 %rd1, [add_param_0];
\tret;
}
"""


def test_hidden_parameters_are_taken_off_and_nothing_else() -> None:
    stripped = without_hidden_parameters(PTX, ["*fp32", "i32"])
    assert parameters_of(stripped) == [POINTER, NUMBER]
    assert [line for line in PTX.splitlines() if line not in stripped.splitlines()] == [
        "\t.param .u32 add_param_1,",
        "\t.param .u64 .ptr .global .align 1 add_param_2,",
        "\t.param .u64 .ptr .global .align 1 add_param_3",
    ]


@pytest.mark.parametrize(
    ("ptx", "message"),
    [
        (PTX.replace("[add_param_0]", "[add_param_3]"), "reads its hidden parameters"),
        (PTX.replace(",\n\t.param .u64 .ptr .global .align 1 add_param_3", ""), "expected .* two hidden pointers"),
        (PTX.replace(".u32", ".u64"), "expected .* two hidden pointers"),
    ],
)
def test_other_parameters_than_expected_are_refused(ptx: str, message: str) -> None:
    with pytest.raises(EngineError, match=message):
        without_hidden_parameters(ptx, ["*fp32", "i32"])


class Number(int):
    """A size as TensorRT's expressions: whole numbers that multiply and divide."""

    def __mul__(self, other: int) -> "Number":
        return Number(int(self) * other)


@dataclass
class Desc:
    shape_expr: tuple[Number, ...]
    dtype: Any


@dataclass
class Launch:
    grid_x: int = 1
    grid_y: int = 1
    grid_z: int = 1
    block_x: int = 1
    shared_mem: int = 0


@dataclass
class Recorder:
    """Stands where `tensorrt.plugin` does and notes what is registered; it has the names that 11.4's module has."""

    found: dict[str, Any] = field(default_factory=dict)
    TensorDesc, KernelLaunchParams, SymInt32 = Desc, Launch, Number
    SymIntExprs = SimpleNamespace(from_tuple=list)

    def register(self, name: str) -> Any:
        return lambda function: self.found.setdefault(f"{name} register", function)

    def aot_impl(self, name: str) -> Any:
        return lambda function: self.found.setdefault(f"{name} aot_impl", function)

    def from_shape_expr(self, shape: tuple[int, ...], dtype: Any) -> Desc:
        return Desc(tuple(Number(n) for n in shape), dtype)

    def cdiv(self, a: int, b: int) -> Number:
        return Number(-(-a // b))


TRT = SimpleNamespace(int32=SimpleNamespace(name="INT32"))


def desc(kind: str, *shape: int) -> Desc:
    return Desc(tuple(Number(n) for n in shape), SimpleNamespace(name=kind))


@pytest.mark.parametrize(("channels", "hidden", "params"), [(8, 8, 169), (16, 8, 233), (16, 16, 593)])
@pytest.mark.parametrize("kind", ["HALF", "FLOAT"])
def test_the_mask_head_plugin_says_its_shape_and_launch(kind: str, channels: int, hidden: int, params: int) -> None:
    trtp: Any = Recorder()
    mask_head.register(TRT, trtp)
    inputs = [desc(kind, 2, channels, 100, 168), desc(kind, 2, 100, params)]
    inputs += [desc("FLOAT", 2, 100, 2), desc("FLOAT", 2, 100)]
    widths = np.array([channels], np.int32), np.array([hidden], np.int32)
    output = trtp.found["condinst::DynamicMaskHead register"](*inputs, *widths)
    assert output == desc(kind, 2, 100, 100, 168)
    name, ptx, launch, numbers = trtp.found["condinst::DynamicMaskHead aot_impl"](*inputs, *widths, (output,), 0)
    tile, group = (256, 16) if kind == "HALF" else (512 if hidden == 8 else 256, 1)
    assert (launch.grid_x, launch.grid_y, launch.grid_z) == (-(-16800 // tile), -(-100 // group), 2)
    assert launch.block_x == 128
    assert numbers == [100, 100, 168]
    assert f".entry {name}(" in ptx
    assert len(parameters_of(ptx)) == len(inputs) + len(numbers) + 1


def test_the_selection_plugin_says_its_shapes_and_launch() -> None:
    trtp: Any = Recorder()
    select.register(TRT, trtp)
    inputs = [desc("FLOAT", 3, 5000, 4), desc("FLOAT", 3, 5000), desc("INT32", 3, 5000)]
    attributes = np.array([100], np.int32), np.array([0.6], np.float32), np.array([5000], np.int32)
    outputs = trtp.found["condinst::SelectInstances register"](*inputs, *attributes)
    assert [output.shape_expr for output in outputs] == [(3, 100), (3,)]
    assert {output.dtype.name for output in outputs} == {"INT32"}
    name, ptx, launch, numbers = trtp.found["condinst::SelectInstances aot_impl"](*inputs, *attributes, outputs, 0)
    assert (launch.grid_x, launch.grid_y, launch.block_x) == (3, 1, 32 * warps_of(8192))
    assert numbers == [5000, 100]
    assert len(parameters_of(ptx)) == len(inputs) + len(numbers) + len(outputs)
    # the threshold is a constant of the kernel: the float32 nearest to 0.6
    assert "0f3F19999A" in ptx
    assert f".entry {name}(" in ptx


def test_every_argument_of_a_kernel_comes_in_tensorrts_order() -> None:
    """Inputs, whole numbers, outputs; constants are compiled in."""
    for source in SOURCES.values():
        assert [*source.arguments, *source.constants] == list(source.function.arg_names)
        kinds = "".join("p" if kind.startswith("*") else "n" for kind in _of(source))
        assert re.fullmatch(r"p+n+p+", kinds)


def _of(source: KernelSource) -> list[str]:
    return list(source.arguments.values())
