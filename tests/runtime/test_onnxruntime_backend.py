"""Threads of the ONNX Runtime backend."""

from pathlib import Path

import numpy as np
import pytest

from condinst_deploy.errors import ConfigError
from condinst_deploy.runtime import onnxruntime_backend
from condinst_deploy.runtime.cores import CpuThreads
from condinst_deploy.runtime.onnxruntime_backend import OnnxRuntimeBackend
from tests.support.batches import host_batch
from tests.support.models import noise_image


@pytest.mark.parametrize(
    ("threads", "count", "spinning"),
    [
        (CpuThreads(), 5, "1"),
        (CpuThreads(3), 3, "1"),
        (CpuThreads(1, spin=False), 1, "0"),
    ],
    ids=str,
)
def test_threads_reach_the_session(
    threads: CpuThreads, count: int, spinning: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnxruntime_backend, "usable_cores", lambda: 5)
    options = onnxruntime_backend.session_options(threads, None)
    assert options.intra_op_num_threads == count
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == spinning


@pytest.mark.parametrize("count", [0, -1])
def test_no_threads_is_an_error(count: int) -> None:
    with pytest.raises(ConfigError, match=f"the number of threads is {count}; expected 1 to 4,096"):
        CpuThreads(count)


def test_threads_do_not_change_what_is_found(slim_onnx: Path) -> None:
    found = []
    for threads in (CpuThreads(1), CpuThreads(2, spin=False)):
        with OnnxRuntimeBackend.load(slim_onnx, "cpu", threads) as backend:
            inputs, _ = host_batch(backend, [noise_image(0, 96, 128)])
            found.append(backend.forward(inputs).on_host())
    assert found[0].num_detections[0] > 0
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-4)
