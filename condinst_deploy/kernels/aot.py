"""The kernels compiled ahead of time, for a compute capability and without a GPU."""

import re
from dataclasses import dataclass, field
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from condinst_deploy.kernels.extents import EXTENT_BLOCK, mask_extents_kernel
from condinst_deploy.kernels.mask_head import launch_of
from condinst_deploy.kernels.resize import resize_kernel
from condinst_deploy.kernels.resize_launch import TILE_INNER, TILE_OUTER, WARPS, ResizeNumbers
from condinst_deploy.kernels.runs import changes_kernel, offsets_kernel, probabilities_kernel
from condinst_deploy.kernels.runs_launch import SCAN, STRIP, TILE
from condinst_deploy.kernels.select import constants_of, select_instances_kernel, warps_of

POINTERS = {"float32": "*fp32", "float16": "*fp16", "bfloat16": "*bf16"}
ALIGNMENT = 16
"""Bytes that every tensor's address is a multiple of; PyTorch and TensorRT give 256."""


@dataclass(frozen=True)
class KernelSource:
    """A kernel with its types and constants decided; arguments are inputs, whole numbers, outputs."""

    function: Any
    arguments: dict[str, str]  # name -> Triton's name of its type
    constants: dict[str, Any]
    warps: int
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class CompiledKernel:
    """PTX and what a launch must know."""

    name: str
    ptx: str
    threads: int  # of a block
    shared_bytes: int  # of a block, given at launch


def mask_head_source(dtype: str, channels: int, hidden: int) -> KernelSource:
    """The mask head for features and parameters of one type."""
    launch = launch_of(dtype, hidden)
    data = POINTERS[dtype]
    arguments = {"feats": data, "params": data, "points": "*fp32", "soi": "*fp32"}
    arguments |= dict.fromkeys(("slots", "height", "width"), "i32") | {"logits": data}
    constants = {"CHANNELS": channels, "HIDDEN": hidden, "TILE": launch.tile}
    return KernelSource(launch.kernel, arguments, constants, launch.warps)


def select_source(threshold: float, block: int, whole: str = "*i32") -> KernelSource:
    """Instance selection for up to `block` candidates; `whole` is the type of labels and results, `*i64` in PyTorch."""
    arguments = {"boxes": "*fp32", "scores": "*fp32", "labels": whole, "candidates": "i32", "slots": "i32"}
    arguments |= {"indices": whole, "count": whole}
    constants = {"THRESHOLD": threshold} | constants_of(block)
    exact = {"enable_fp_fusion": False}
    return KernelSource(select_instances_kernel, arguments, constants, warps_of(block), exact)


def extents_source(dtype: str) -> KernelSource:
    """Extents of masks, for logits of one type."""
    arguments = {"logits": POINTERS[dtype], "height": "i32", "width": "i32", "extents": "*i32"}
    return KernelSource(mask_extents_kernel, arguments, {"BLOCK": EXTENT_BLOCK}, warps=4)


def probabilities_source(dtype: str) -> KernelSource:
    """Doubled probabilities of masks, for logits of one type."""
    arguments = {"logits": POINTERS[dtype], "crops": "*i64"}
    arguments |= dict.fromkeys(("number", "height", "width"), "i32") | {"probabilities": "*fp32"}
    exact = {"enable_fp_fusion": False}
    return KernelSource(probabilities_kernel, arguments, {"TILE": TILE}, warps=4, options=exact)


def changes_source(*, write: bool) -> KernelSource:
    """Starts and ends of runs: counted, or written."""
    arguments = {"probabilities": "*fp32", "crops": "*i64", "axes": "*fp64", "first": "*i32", "share": "*fp32"}
    arguments |= {"number": "i32", "counts": "*i32", "offsets": "*i32", "starts": "*i64", "runs": "*i64"}
    exact = {"enable_fp_fusion": False}
    return KernelSource(changes_kernel, arguments, {"WRITE": write, "STRIP": STRIP}, warps=1, options=exact)


def offsets_source() -> KernelSource:
    """Places of the starts and ends of runs."""
    arguments = {"crops": "*i64", "counts": "*i32", "offsets": "*i32", "totals": "*i32"}
    return KernelSource(offsets_kernel, arguments, {"SCAN": SCAN}, warps=4)


def resize_source() -> KernelSource:
    """Exact resizing of one image."""
    arguments = {"image": "*u8", "outer_table": "*i32", "inner_table": "*i32"}
    arguments |= dict.fromkeys(ResizeNumbers._fields, "i32") | {"target": "*u8"}
    return KernelSource(resize_kernel, arguments, {"OUTER": TILE_OUTER, "INNER": TILE_INNER}, WARPS)


def shipped_sources() -> dict[str, KernelSource]:
    """The kernels that the package contains as PTX, by the names under which engines load them."""
    sources = {"resize_kernel": resize_source()}
    for dtype in ("float32", "float16"):  # types of an engine's logits
        sources |= {
            f"mask_extents_{dtype}": extents_source(dtype),
            f"probabilities_{dtype}": probabilities_source(dtype),
        }
    sources |= {"changes_counted": changes_source(write=False), "changes_written": changes_source(write=True)}
    return sources | {"offsets": offsets_source()}


def compiled(source: KernelSource, capability: int, ptx_version: int | None = None) -> CompiledKernel:
    """Compile for a compute capability (80 is sm_80); `ptx_version` 80 is PTX ISA 8.0, None the newest."""
    names = source.function.arg_names
    signature = {name: source.arguments.get(name, "constexpr") for name in names}
    constants = {(names.index(name),): value for name, value in source.constants.items()}
    aligned = [["tt.divisibility", ALIGNMENT]]
    attributes = {(i,): aligned for i, name in enumerate(names) if signature[name].startswith("*")}
    options = {"num_warps": source.warps} | source.options
    if ptx_version is not None:
        options["ptx_version"] = ptx_version
    target = GPUTarget("cuda", capability, 32)
    kernel = triton.compile(ASTSource(source.function, signature, constants, attributes), target, options)
    return CompiledKernel(kernel.metadata.name, kernel.asm["ptx"], 32 * source.warps, kernel.metadata.shared)


def target_of(ptx: str) -> str:
    """Return the target that the PTX names: `sm_80`."""
    found = re.search(r"^\.target\s+(\w+)", ptx, re.MULTILINE)
    return found.group(1) if found else ""
