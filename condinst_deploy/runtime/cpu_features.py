"""Support of this machine's CPU for 8-bit arithmetic."""

import platform
from pathlib import Path

VNNI = frozenset(("avx512_vnni", "avx_vnni", "avx_vnni_int8", "amx_int8"))
"""Flags of x86 CPUs that multiply 8-bit numbers and add into 32 bits. One of them is enough."""

OVERFLOW_REMARK = (
    "this CPU reports no VNNI: its products of uint8 and int8 numbers can overflow, so ONNX Runtime computes with uint8"
    " weights (session.x64quantprecision). An INT8 file may be no faster here than the float32 one, and results on such"
    " CPUs were not proved"
)
"""Warning for users of an INT8 file if `products_may_overflow`."""

X86 = ("x86_64", "AMD64", "i686")


def cpu_flags(root: Path = Path("/")) -> frozenset[str]:
    """Flags of the first CPU as Linux names them; empty if it does not.

    Args:
        root: where `proc` is.
    """
    try:
        text = (root / "proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return frozenset()
    lines = (line.partition(":") for line in text.splitlines())
    return frozenset(next((value.split() for key, _, value in lines if key.strip() in ("flags", "Features")), ()))


def products_may_overflow() -> bool:
    """Return whether sums of two products of uint8 and int8 can overflow 16 bits here: on x86 without VNNI."""
    return platform.machine() in X86 and VNNI.isdisjoint(cpu_flags())
