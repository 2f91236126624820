"""The benchmark of masks measures what it says."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import masks
from benchmarks.masks import Case


def test_its_set_has_the_extents_that_the_targets_speak_of() -> None:
    for original in masks.ORIGINALS:
        case = Case("objects", original)
        logits = case.logits()
        assert logits.shape == (100, 100, 168)
        areas = (logits > 0).sum(axis=(1, 2)) / np.prod(case.geometry.resized) * 64
        assert 0.045 < np.median(areas) < 0.055
        assert 0.3 < areas.max() < 0.45
    assert np.array_equal(logits, case.logits())


@pytest.fixture
def made_up_peaks(monkeypatch: pytest.MonkeyPatch) -> None:
    # a separate process does not see what is patched here
    monkeypatch.setattr(masks, "peak_of", lambda form, case: float(len(case.kind)))


@pytest.mark.usefixtures("made_up_peaks")
def test_it_writes_its_metrics_beside_the_targets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "masks.json"
    few = ["--originals", "80x60", "--instances", "2", "--many", "3", "--rounds", "1"]
    monkeypatch.setattr("sys.argv", ["masks", *few, "--out", str(out)])
    masks.main()
    written = json.loads(out.read_text())
    assert [row["kind"] for row in written["rows"]] == ["objects", "full frame"]
    for row in written["rows"]:
        assert row["wrong pixels"] == row["rles unlike pycocotools"] == 0
        assert row["speedup"] > 0
    targets = {target["name"]: target for target in written["targets"]}
    assert targets["paste and RLE, objects, 80x60: dense / ours"]["target"] == "at least 20"
    # of the memory that is given above: as many MB as the name of the kind has letters, for all forms
    assert targets["peak extra memory, full frame, 80x60: ours / dense"]["measured"] == 1
    assert targets["peak extra memory, full frame, 80x60: ours / dense"]["met"] is False
    assert "full frame" in capsys.readouterr().out


def test_peak_memory_is_that_of_the_work() -> None:
    case = Case("objects", "640x480", 4)
    # 4 * 800 * 1344 probabilities of four bytes are 17 MB
    assert masks.peak_here("dense", case) > 15 > masks.peak_here("ours", case)
