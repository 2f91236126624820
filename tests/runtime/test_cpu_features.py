"""What a CPU can do, by its flags."""

import platform
from pathlib import Path

import pytest

from condinst_deploy.runtime import cpu_features


def test_flags_are_those_of_the_first_cpu(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text("processor\t: 0\nflags\t\t: fpu avx2 avx512_vnni\n\nflags: other\n")
    assert cpu_features.cpu_flags(tmp_path) == {"fpu", "avx2", "avx512_vnni"}
    assert cpu_features.cpu_flags(tmp_path / "none") == frozenset()


def test_cpus_of_other_kinds_do_not_overflow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_features, "cpu_flags", frozenset)
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert not cpu_features.products_may_overflow()
