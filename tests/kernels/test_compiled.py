"""The kernels compiled without a GPU, for every architecture from Turing to Blackwell."""

from collections.abc import Callable

import pytest

from condinst_deploy.kernels.aot import (
    KernelSource,
    compiled,
    extents_source,
    mask_head_source,
    packed_masks_source,
    resize_source,
    resources_of,
    select_source,
    target_of,
)
from condinst_deploy.kernels.select import MOST_CANDIDATES

CAPABILITIES = (75, 80, 86, 89, 90, 100, 120)
SOURCES = {
    "mask head, float32": mask_head_source("float32", 8, 8),
    "mask head, float16": mask_head_source("float16", 8, 8),
    "mask head, bfloat16": mask_head_source("bfloat16", 8, 8),
    "mask head, 16 hidden, float32": mask_head_source("float32", 16, 16),
    "mask head, 16 hidden, float16": mask_head_source("float16", 16, 16),
    "mask head, 16 hidden, bfloat16": mask_head_source("bfloat16", 16, 16),
    "select, 8192": select_source(0.6, MOST_CANDIDATES),
    "select, 1024": select_source(0.6, 1024),
    "mask extents, float16": extents_source("float16"),
    "packed masks, float32": packed_masks_source("float32"),
    "packed masks, float16": packed_masks_source("float16"),
    "packed masks, bfloat16": packed_masks_source("bfloat16"),
    "resize": resize_source(),
}
NO_SPILLS = (80, 90)
LARGEST_SHARED = 48 << 10  # what a launch gets without asking for more
PAIRS = [
    (name, capability)
    for name in SOURCES
    for capability in CAPABILITIES
    if not (name.endswith("bfloat16") and capability == 75)  # Turing has no bfloat16
]


@pytest.mark.parametrize(("name", "capability"), PAIRS)
def test_a_kernel_compiles_and_fits(
    name: str, capability: int, record_testsuite_property: Callable[[str, object], None]
) -> None:
    kernel = compiled(SOURCES[name], capability)
    resources = resources_of(kernel.ptx, target_of(kernel.ptx))
    record_testsuite_property(f"{name}, sm {capability}", f"{resources}, {kernel.shared_bytes} bytes shared")
    assert kernel.shared_bytes <= LARGEST_SHARED
    assert resources.registers * kernel.threads <= 65536
    if capability in NO_SPILLS or name == "resize":
        assert resources.spilled_bytes == 0


@pytest.mark.parametrize("capability", [80, 90])
def test_packed_masks_take_no_memory_but_registers(capability: int) -> None:
    """Nothing between logits and bits is kept: neither in shared memory nor in spilled registers."""
    kernel = compiled(SOURCES["packed masks, float16"], capability)
    assert kernel.shared_bytes == 0
    assert ".f64" not in kernel.ptx


@pytest.mark.parametrize("width", ["mask head", "mask head, 16 hidden"])
@pytest.mark.parametrize("capability", [80, 90])
def test_half_precision_runs_on_tensor_cores(capability: int, width: str) -> None:
    assert "mma" in compiled(SOURCES[f"{width}, float16"], capability).ptx
    assert "mma" not in compiled(SOURCES[f"{width}, float32"], capability).ptx


@pytest.mark.parametrize("source", [SOURCES["select, 1024"], SOURCES["select, 8192"]])
def test_selection_is_compiled_as_it_is_written(source: KernelSource) -> None:
    """A fused multiply-add or an approximate division would move IoUs off the reference's."""
    ptx = compiled(source, 80).ptx
    assert "fma." not in ptx
    assert "div.rn.f32" in ptx
    assert "div.full" not in ptx
