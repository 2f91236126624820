"""Metrics of the performance page are those of the committed results."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from benchmarks.markdown import RESULTS
from benchmarks.performance_tables import BLOCK, DOCUMENT, ROOT, filled, linear_fit, table_of
from benchmarks.sweep_plots import draw_sweeps
from benchmarks.targets import Target, write_results

MACHINE = {"processor": "a processor", "cores": 2, "load_average": 0.3, "versions": {"torch": "2"}, "commit": "abc"}

SWEEPS: dict[str, Any] = {
    "machine": MACHINE,
    "instances": [
        {"instances": n, "masks_ms": 5 + 0.5 * n, "dense_ms": 40 * n, "dense_over_masks": 20, "mask_head_ms": 1.5 * n}
        for n in (10, 30, 100)
    ],
    "originals": [
        {"height": h, "width": w, "megapixels": h * w / 1e6, "masks_ms": 2 * h, "dense_ms": 3 * h, "resize_ms": h}
        | {"dense_over_masks": 1.5}
        for h, w in ((480, 640), (800, 1333), (3000, 4000))
    ],
    "full": [
        {"threads": t, "batch": 1, "calls": 3, "network_ms": 5000 / t, "post_ms": 100, "peak_mb": 1500} for t in (1, 2)
    ],
    "slim": [
        {"threads": 1, "batch": b, "calls": 3, "network_ms": 50, "post_ms": 10, "peak_mb": 700} for b in (1, 2, 4)
    ],
}


@pytest.fixture
def results(tmp_path: Path) -> Path:
    (tmp_path / "sweeps.json").write_text(json.dumps(SWEEPS))
    return tmp_path


def test_the_page_says_what_the_committed_results_say() -> None:
    document = DOCUMENT.read_text(encoding="utf-8")
    assert filled(document, RESULTS) == document, "python -m benchmarks.performance_tables writes it anew"


def test_every_script_that_the_page_names_can_be_run() -> None:
    named = set(re.findall(r"python -m (benchmarks\.\w+)", DOCUMENT.read_text(encoding="utf-8")))
    assert len(named) > 5
    for name in named:
        path = ROOT / name.replace(".", "/")
        script = path / "__main__.py" if path.is_dir() else path.with_suffix(".py")
        assert script.is_file(), f"docs/performance.md names {name}"
        assert '__name__ == "__main__"' in script.read_text(encoding="utf-8"), f"{name} does nothing when it is run"


def test_the_page_shows_every_results_file_that_has_targets() -> None:
    blocks = {name for _, name, _ in BLOCK.findall(DOCUMENT.read_text(encoding="utf-8"))}
    shown = {name.partition(".")[0] for name in blocks}
    for path in RESULTS.glob("*.json"):
        if "targets" in json.loads(path.read_text(encoding="utf-8")):
            assert path.stem in shown, f"{path.name} has targets that docs/performance.md does not show"


def test_images_of_the_page_are_there() -> None:
    if not (RESULTS / "sweeps.json").is_file():
        pytest.skip("nothing swept yet")
    for name in ("instances", "originals", "network"):
        assert (ROOT / "docs" / "images" / f"sweep_{name}.png").is_file()


def test_targets_become_a_table(tmp_path: Path) -> None:
    targets = [Target.at_least("a", 23.4, 20, "x"), Target.at_most("b", 1.2, 1.05, ""), Target.without("c", 7, "ms")]
    write_results(tmp_path / "masks.json", targets, {})
    lines = table_of("masks", tmp_path).splitlines()
    assert lines[:5] == [
        "| metric | measured | target | |",
        "| --- | --- | --- | --- |",
        "| a | 23.4 x | at least 20 | met |",
        "| b | 1.2 | at most 1.05 | **missed** |",
        "| c | 7 ms | | |",
    ]
    assert lines[-1].startswith("*`benchmarks/results/masks.json`, ")


def test_what_is_missing_or_has_no_targets_says_so(tmp_path: Path) -> None:
    assert table_of("masks", tmp_path) == (
        "*Not measured yet: `python -m benchmarks.masks --out benchmarks/results/masks.json`.*"
    )
    (tmp_path / "gpu.json").write_text("{}")
    assert table_of("gpu", tmp_path) == (
        "*No targets in this file.*\n\n*`benchmarks/results/gpu.json`; the machine was not recorded.*"
    )


def test_only_what_stands_between_the_marks_changes_and_a_second_time_nothing(results: Path) -> None:
    page = "before\n<!-- results: sweeps.instances -->\nold\n<!-- /results -->\nbetween\n<!-- results: x -->\n"
    page += "<!-- /results -->\nafter\n"
    once = filled(page, results)
    assert once.startswith("before\n<!-- results: sweeps.instances -->\n\n| instances | ours, ms |")
    assert "old" not in once
    assert "<!-- /results -->\nbetween\n<!-- results: x -->\n\n*Not measured yet" in once
    assert once.endswith("<!-- /results -->\nafter\n")
    assert filled(once, results) == once


def test_sweeps_become_tables_with_the_cost_of_one_more(results: Path) -> None:
    instances = table_of("sweeps.instances", results)
    assert "| 30 | 20 | 1200 | 20 | 45 |" in instances
    assert "masks to RLE 0.5 ms (R² 1.000), dynamic mask head (eager) 1.5 ms (R² 1.000)" in instances
    assert instances.endswith("a processor, 2 cores, load 0.3 at the end, torch 2, commit abc.*")
    assert "| 4000x3000 | 12 | 6000 | 9000 | 1.5 | 3000 |" in table_of("sweeps.originals", results)
    network = table_of("sweeps.network", results)
    assert "| R-50, 800x1344 | 2 | 1 | 3 | 2500 | 100 | 1500 |" in network
    assert "](images/sweep_network.png)" in network


def test_a_line_explains_what_is_linear_and_not_what_is_not() -> None:
    assert linear_fit([1, 2, 4], [3, 5, 9]) == pytest.approx((2, 1, 1))
    slope, intercept, explained = linear_fit([-1, 0, 1], [1, 0, 1])
    assert (slope, intercept, explained) == pytest.approx((0, 2 / 3, 0), abs=1e-12)


def test_sweeps_become_small_images(tmp_path: Path) -> None:
    paths = list(draw_sweeps(SWEEPS, tmp_path))
    assert [path.name for path in paths] == [f"sweep_{name}.png" for name in ("instances", "originals", "network")]
    assert all(1_000 < path.stat().st_size < 100_000 for path in paths)
