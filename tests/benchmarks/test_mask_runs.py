"""The benchmark of the host's work behind the kernels that find runs of masks, on few instances."""

import numpy as np

from benchmarks import mask_runs
from benchmarks.masks import Case
from condinst_deploy.runtime.postprocess import masks_from_logits


def test_replayed_arrays_are_the_masks_and_times_become_targets() -> None:
    case = Case("objects", "640x480", instances=3)
    logits = case.logits()
    host = masks_from_logits(logits, np.arange(3), case.geometry)
    runs, totals = mask_runs.turn_of(host)
    halves = [(runs[: totals[0]], totals[:1]), (runs[totals[0] :], totals[1:])]
    assert mask_runs.masks_of(halves, case.geometry).rle() == host.rle()
    found = mask_runs.row(case, rounds=2)
    assert found["runs"] == sum(len(each) for each in host.runs) // 2
    assert found["crossing_bytes"] == 16 * found["runs"]
    named = [found | {"original": name, "median_ms": 2.0} for name in ("640x480", "1333x800", "4000x3000")]
    assert [target.met for target in mask_runs.targets_of(named)] == [None, False, True]
    (_, unlike) = mask_runs.targets_of([named[1] | {"interpreted": True, "unlike_host": 1}])
    assert unlike.met is False
