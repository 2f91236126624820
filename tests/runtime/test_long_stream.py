"""Thousands of images through one stream: memory, threads and open files stay as they are."""

import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from condinst_deploy import Predictor
from condinst_deploy.benchmarking.memory import resident_mb

IMAGES, EVERY = 3000, 500
SIZES = [(40, 60), (64, 96), (90, 70), (128, 128), (33, 200)]


@pytest.mark.slow
@pytest.mark.timeout(2000)
def test_three_thousand_images_through_one_stream(tmp_path: Path, slim_onnx: Path) -> None:
    """`pytest -s` prints the table of docs/robustness.md."""
    generator = np.random.default_rng(0)
    paths = []
    for i, (height, width) in enumerate(SIZES * 4):
        suffix = ("png", "jpg")[i % 2]
        paths.append(tmp_path / f"{i}.{suffix}")
        Image.fromarray(generator.integers(0, 255, (height, width, 3), dtype=np.uint8)).save(paths[-1])
    (tmp_path / "bad.jpg").write_bytes(paths[1].read_bytes()[:200])
    paths.append(tmp_path / "bad.jpg")
    rows = []
    with Predictor(slim_onnx, device="cpu", batch_size=2) as predictor:
        stream = predictor.stream([paths[i % len(paths)] for i in range(IMAGES)])
        for number, prediction in enumerate(stream, start=1):
            assert (prediction.error is None) == (prediction.detections is not None)
            if number % EVERY == 0:
                memory = resident_mb()
                assert memory is not None
                rows.append((number, memory, threading.active_count(), len(list(Path("/proc/self/fd").iterdir()))))
    assert number == IMAGES
    print("| images | memory, MB | threads | open files |\n| --- | --- | --- | --- |")
    print("\n".join(f"| {n} | {memory:.0f} | {threads} | {files} |" for n, memory, threads, files in rows))
    assert rows[-1][1] - rows[0][1] < 30
    assert max(row[2] for row in rows[:-1]) <= rows[0][2]
    assert max(row[3] for row in rows) <= rows[0][3]
