"""The model of a server: which part limits it."""

import json
import shutil
from pathlib import Path

from benchmarks.markdown import RESULTS, content_of
from benchmarks.server_model import ESTIMATES, MASKS, Estimates, limits, recompute, targets_of

PARTS = {"decode_ms": 10.0, "copy_ms": 3.0, "masks_ms": 3.0, "up_bytes": 1e6, "down_bytes": 2e6}


def test_each_part_has_its_limit() -> None:
    estimates = Estimates(
        bus_gb_s=10.0, network_ms=1.5, gpu_memory_gb_s=2.0, selection_ms=0.2, mask_head_ms=0.1, runs_ms=0.2
    )
    assert list(limits(PARTS, estimates).values()) == [1000.0, 10_000.0, 1e3 / 3.0, 5000.0, 1000.0]


def test_the_committed_limits_are_those_of_the_present_parts_and_estimates(tmp_path: Path) -> None:
    committed = content_of(RESULTS / "server_model.json")
    again = tmp_path / "server_model.json"
    shutil.copy(RESULTS / "server_model.json", again)
    recompute(again)
    assert json.loads(again.read_text()) == committed, "run python -m benchmarks.server_model --recompute"
    assert committed["estimates"] == vars(ESTIMATES)
    masks = {row["original"]: row["median_ms"] for row in content_of(RESULTS / "mask_runs.json")["rows"]}
    assert {name: part["masks_ms"] for name, part in committed["parts"].items()} == {
        name: masks[original] for name, original in MASKS.items()
    }


def test_what_rests_on_an_estimate_says_so() -> None:
    changed = limits(PARTS, Estimates(1.0, 9.0, 1.0, 9.0, 9.0, 9.0))
    usual = limits(PARTS)
    assert {name for name in usual if usual[name] != changed[name]} == {name for name in usual if "estimated" in name}


def test_the_lowest_limit_is_named() -> None:
    (*_, lowest) = targets_of({"640x480": PARTS | {"decode_ms": 100.0}})
    assert lowest.name.startswith("640x480: the lowest, decoding")
    assert lowest.measured == 126.2
