"""The CPU benchmark: its two ways to RLEs end in the same masks, and its ratios are those of its rounds."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from benchmarks import network_cpu
from benchmarks.network_cpu import SIDE, Seconds, int8_targets_of, targets_of
from benchmarks.network_side import INT8, Side, compact_masks, dense_masks
from condinst_deploy.benchmarking.benchmark_settings import cores_for
from condinst_deploy.benchmarking.process import ModelProcess
from condinst_deploy.evaluation.agreement import instances_from_coco, matched_pairs
from condinst_deploy.runtime.torch_backend import TorchBackend
from tests.support.batches import host_batch
from tests.support.models import noise_image


def test_both_sides_encode_the_same_masks(slim_checkpoint: Path) -> None:
    with TorchBackend.load(slim_checkpoint, "cpu") as backend:
        inputs, (geometry,) = host_batch(backend, [noise_image(0, 100, 150)])
        outputs = backend.forward(inputs).on_host()
        ours, theirs = (encode(backend, outputs, geometry) for encode in (compact_masks, dense_masks))
    assert len(ours) == len(theirs) == outputs.num_detections[0] > 0
    for one, other in zip(ours, theirs, strict=True):
        # pixels whose probability is within rounding of 0.5 may fall on either side
        assert np.count_nonzero(coco_mask.decode(one) != coco_mask.decode(other)) <= 2


def test_a_process_of_each_side_times_its_work_and_finds_the_same(
    slim_checkpoint: Path, slim_onnx: Path, tmp_path: Path
) -> None:
    shutil.copy(slim_checkpoint, tmp_path / "r50.pth")
    shutil.copy(slim_onnx, tmp_path / "r50.onnx")
    found = {}
    for side in ("eager", "onnxruntime"):
        with ModelProcess(Path(side), cores_for(1), SIDE) as process:
            assert process.ask("load", side=side, folder=str(tmp_path)) == {"padded": [128, 224]}
            assert process.ask("network")["seconds"] > 0
            assert process.ask("image")["seconds"] > 0
            found[side] = instances_from_coco(process.ask("detections")["entries"])
    eager, exported = found.values()
    assert len(matched_pairs(eager, exported, 0.9)) == len(eager.scores) == len(exported.scores) > 0


def test_metrics_are_medians_of_the_rounds_ratios() -> None:
    network: dict[Side, list[float]] = {
        "eager": [4.0, 2.0, 3.0],
        "eager, channels last": [2.0, 2.0, 2.0],
        "onnxruntime": [2.0, 2.2, 3.0],
        "onnxruntime, sleeping": [4.0, 2.2, 2.0],
    }
    image: dict[Side, list[float]] = {"eager": [10.0, 1.0, 4.0], "onnxruntime": [1.0, 1.0, 3.0]}
    targets = targets_of({"network": network, "image": image})
    assert [target.measured for target in targets] == pytest.approx([1.0, 1.1, 1.0, 0.75])
    assert [target.met for target in targets] == [True, None, None, False]


def test_targets_of_the_int8_file_are_for_cpus_with_vnni(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds: Seconds = {
        "network": {"onnxruntime": [4.0, 2.0, 3.0], INT8: [1.2, 0.9, 0.9]},
        "image": {"onnxruntime": [4.0, 2.0, 3.0], INT8: [2.4, 1.2, 1.8]},
    }
    monkeypatch.setattr(network_cpu, "products_may_overflow", lambda: False)
    targets = int8_targets_of(seconds)
    assert [target.measured for target in targets] == pytest.approx([0.3, 0.6])
    assert [target.met for target in targets] == [True, False]
    monkeypatch.setattr(network_cpu, "products_may_overflow", lambda: True)
    assert [target.met for target in int8_targets_of(seconds)] == [None, None]
