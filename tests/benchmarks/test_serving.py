"""Figures of the serving guide are those of the committed results; the benchmark's own arithmetic."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks.mask_transport import crop_bytes, dense_bytes, rle_bytes
from benchmarks.serving_load import OTHERS, PREDICTORS, SINGLE, Load, Service, loaded, targets_of
from benchmarks.serving_load import Cost as CpuSeconds
from benchmarks.serving_tables import DOCUMENT, PLOT, draw_load, filled, shown_bytes
from condinst_deploy.imaging.encoded_image import EncodedImage
from condinst_deploy.masks import Masks

IMAGES = [EncodedImage(str(number), bytes([number])) for number in range(3)]


def test_the_guide_says_what_the_committed_results_say() -> None:
    document = DOCUMENT.read_text(encoding="utf-8")
    assert "Not measured yet" not in document
    assert filled(document) == document, "python -m benchmarks.serving_tables writes it anew"
    with Image.open(PLOT) as plot:
        assert plot.format == "PNG"


def load(service: str, number: int, cpu_ms: float, workload: str = "uniform", concurrency: int = 4) -> Load:
    return Load(service, workload, concurrency, number, 10, 5.0, 1.0, 2.0, 3.0, cpu_ms, 0.5, 4.0)


def alone(number: int, cpu_ms: float) -> list[dict[str, Any]]:
    return [
        {"options": name, "workload": "uniform", "round": number, "cpu_ms": share * cpu_ms, "images_per_second": 1.0}
        for name, share in zip(PREDICTORS, (2, 1), strict=True)
    ]


def test_the_target_is_a_ratio_of_the_same_round() -> None:
    rounds = {1: (10.0, 10.5), 2: (40.0, 43.0), 3: (20.0, 30.0)}  # predictor, server: the machine was slower in one
    loads = [load(name, number, server) for name in (SINGLE, *OTHERS) for number, (_, server) in rounds.items()]
    others = [load(SINGLE, 1, 99.0, "mixed"), load(SINGLE, 1, 99.0, concurrency=16)]
    entries = [entry for number, (predictor, _) in rounds.items() for entry in alone(number, predictor)]
    target, *rest = targets_of(loads + others, entries)
    assert (target.measured, target.met) == (1.075, True)
    assert rest[-1].measured == pytest.approx(1.075 / 2, abs=1e-3)


def service(ask: Any) -> Service:
    times = iter(range(100))
    return Service(
        "a server",
        lambda: (ask, lambda: None),
        lambda answer: answer,
        lambda: CpuSeconds(0.001 * next(times), 0.0),
        lambda: (0.0, 0.0),
    )


def test_answers_are_counted_and_compared() -> None:
    found = loaded(service(lambda content: content), IMAGES, [image.content for image in IMAGES], 2, 7)
    assert found["requests"] == 7
    assert found["transport_cpu_ms"] == found["cpu_ms"] == pytest.approx(1 / 7, abs=1e-3)
    with pytest.raises(SystemExit, match="the answer of request 1 is another one"):
        loaded(service(lambda content: b"\x00"), IMAGES, [image.content for image in IMAGES], 1, 2)


def test_an_answer_that_is_lost_ends_the_benchmark() -> None:
    def lost(content: bytes) -> bytes:
        raise OSError("it is gone")

    with pytest.raises(SystemExit, match=r"0 answers of 4.*it is gone"):
        loaded(service(lost), IMAGES, [image.content for image in IMAGES], 2, 4)


def test_bytes_of_masks() -> None:
    dense = np.zeros((2, 10, 20), dtype=bool)
    dense[0, 2:5, 3:8] = True  # 15 pixels, two bytes
    masks = Masks.from_dense(dense)
    assert dense_bytes(masks) == 2 * 200
    assert crop_bytes(masks) == 2 + 2 * 16
    assert rle_bytes(masks) == sum(len(rle["counts"]) for rle in masks.rle()) + 2 * 4
    assert [shown_bytes(count) for count in (5, 38_100, 3_380_000, 1_200_000_000)] == [
        "5 bytes",
        "38.1 KB",
        "3.38 MB",
        "1.2 GB",
    ]


def test_results_become_tables_and_a_plot(tmp_path: Path) -> None:
    levels = (1, 4)
    loads = [
        load(name, 1, 12.0, kind, level)
        for name in (SINGLE, *OTHERS)
        for kind in ("uniform", "mixed")
        for level in levels
    ]
    entries = [entry | {"workload": kind} for kind in ("uniform", "mixed") for entry in alone(1, 10.0)]
    results = {"loads": [vars(one) for one in loads], "predictors": entries, "machine": {"processor": "a processor"}}
    (tmp_path / "serving_load.json").write_text(json.dumps(results))
    document = "a\n<!-- load -->\nold\n<!-- /load -->\nb\n<!-- transport -->\n<!-- /transport -->\n"
    page = filled(document, tmp_path)
    assert "| uniform | 4 | 12.0, 0.5, 4.0 |" in page
    assert "| mixed | 1 | 1 / 2 / 3 |" in page
    assert "old" not in page
    assert "Not measured yet" in page  # no results of the other benchmark
    assert filled(page, tmp_path) == page
    draw_load(results, tmp_path / "plot.png")
    with Image.open(tmp_path / "plot.png") as plot:
        assert plot.width > 400
