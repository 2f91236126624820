"""The kernels compiled without a GPU, for every architecture from Turing to Blackwell."""

from collections.abc import Callable

import pytest

from condinst_deploy.kernels.aot import (
    KernelSource,
    changes_source,
    compiled,
    extents_source,
    mask_head_source,
    offsets_source,
    probabilities_source,
    resize_source,
    select_source,
    target_of,
)
from condinst_deploy.kernels.select import MOST_CANDIDATES
from tests.support.ptx_resources import resources_of

CAPABILITIES = (75, 80, 86, 89, 90, 100, 120)
SOURCES = {
    "mask head, float32": mask_head_source("float32", 8, 8),
    "mask head, float16": mask_head_source("float16", 8, 8),
    "mask head, bfloat16": mask_head_source("bfloat16", 8, 8),
    "mask head, 16 hidden, float32": mask_head_source("float32", 16, 16),
    "mask head, 16 hidden, float16": mask_head_source("float16", 16, 16),
    "mask head, 16 hidden, bfloat16": mask_head_source("bfloat16", 16, 16),
    "select, 8192": select_source(0.6, MOST_CANDIDATES),
    "select, 8192, as PyTorch launches it": select_source(0.6, MOST_CANDIDATES, "*i64"),
    "select, 1024": select_source(0.6, 1024),
    "mask extents, float16": extents_source("float16"),
    "probabilities, float32": probabilities_source("float32"),
    "probabilities, float16": probabilities_source("float16"),
    "probabilities, bfloat16": probabilities_source("bfloat16"),
    "changes, counted": changes_source(write=False),
    "changes, written": changes_source(write=True),
    "offsets": offsets_source(),
    "resize": resize_source(),
}
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
    assert resources.spilled_bytes == 0


@pytest.mark.parametrize("capability", [80, 90])
def test_runs_are_compiled_as_they_are_written(capability: int) -> None:
    """A fused multiply-add would move values off the host's, and a pixel at 0.5 to the other side."""
    assert "div.rn.f32" in compiled(SOURCES["probabilities, float16"], capability).ptx
    for name in ("changes, counted", "changes, written"):
        kernel = compiled(SOURCES[name], capability)
        assert kernel.shared_bytes == 0
        assert "fma." not in kernel.ptx
        assert "div.rn.f64" in kernel.ptx
        assert "div.full" not in kernel.ptx


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
    assert "ld.global.nc" not in ptx  # it reads indices that it wrote
