"""The GPU benchmark starts anywhere; what of it needs no GPU is right."""

import importlib
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from condinst_deploy.contract import ImageGeometry
from condinst_deploy.model.mask_head import dynamic_mask_head
from condinst_deploy.model.operations import REFERENCE
from condinst_deploy.runtime.postprocess import ResultFilter, detections_from_outputs
from condinst_export.graph import ExportGraph
from tests.support.interpreter import ROOT, interpreted
from tests.support.mask_cases import outputs_with
from tests.support.models import SLIM, noise_image, seeded_model
from tests.support.operations import MaskHeadCase, mask_head_cases


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = importlib.import_module("benchmarks.gpu")
    monkeypatch.setattr(module, "DEVICE", "cpu")
    return module


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu_it_says_so_in_one_line() -> None:
    command = [sys.executable, "-m", "benchmarks.gpu"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert run.stdout == ""
    assert run.stderr.strip().splitlines()[-1].startswith("error: PyTorch sees no NVIDIA GPU")


@pytest.mark.parametrize("case", mask_head_cases(), ids=str)
def test_its_batched_products_are_the_mask_head(benchmark: ModuleType, case: MaskHeadCase) -> None:
    """A rival that computed something else would make the comparison worthless."""
    arguments = case.mask_feats, case.params, case.points, case.soi
    want = dynamic_mask_head(*arguments)
    torch.testing.assert_close(
        benchmark.batched_products(*arguments), want, atol=1e-5 * max(1.0, float(want.abs().max())), rtol=0
    )


def test_the_fixed_slots_that_it_times_find_what_the_model_finds() -> None:
    model = seeded_model(SLIM)
    images = torch.stack([torch.from_numpy(noise_image(seed, 96, 128)).permute(2, 0, 1) for seed in (3, 4)])
    sizes = torch.tensor([[96, 128], [80, 120]], dtype=torch.int32)
    want = model(images, sizes)
    with torch.no_grad():
        got = ExportGraph(model, REFERENCE)(images, sizes)
    assert got.num_detections.tolist() == want.num_detections.tolist()
    assert int(want.num_detections.min()) > 2
    assert got.labels.tolist() == want.labels.tolist()
    torch.testing.assert_close(got.boxes, want.boxes, atol=1e-3, rtol=0)
    filled = torch.arange(want.scores.shape[1]) < want.num_detections[:, None]
    torch.testing.assert_close(got.mask_logits[filled], want.mask_logits[filled], atol=1e-3, rtol=1e-4)


def test_it_goes_from_images_and_from_logits_to_masks_on_both_sides() -> None:
    """On a CPU with interpreted kernels, called once where a GPU is timed; it checks equality itself."""
    (found,) = interpreted([("tests.benchmarks.gpu_on_cpu:measured_once", ())])
    assert found["logits"] == "torch.float16"
    assert found["finite"]
    assert min(found["detections"]) > 0
    masks = found["masks"]
    assert 0.01 < masks["median_area"] < masks["largest_area"] < 0.6
    assert masks["packed_bytes"] > 0
    assert masks["packed_masks_kernel_gb_per_s"] > 0
    assert set(found["ends"]) == {"with_masks_on_the_gpu", "with_masks_on_the_host"}
    # packing and extents, either side of the postprocessing, then the ends
    assert found["called"] == ["NoneType", "Tensor", "list", "list", "list", "list"]


def test_it_takes_masks_that_differ_for_a_failure(benchmark: ModuleType) -> None:
    geometry = ImageGeometry((64, 96), (64, 96), (64, 96))
    outputs = outputs_with([[0.0, 0.0, 8.0, 8.0], [8.0, 8.0, 40.0, 40.0]])
    (found,) = detections_from_outputs(outputs, [geometry], benchmark.coco_manifest(), ResultFilter())
    benchmark.same_masks([found], [found])
    with pytest.raises(RuntimeError, match="no mask has a pixel"):
        benchmark.same_masks([found[[]]], [found[[]]])
    with pytest.raises(RuntimeError, match="differ in"):
        benchmark.same_masks([found], [found[[1, 0]]])
    logits = torch.from_numpy(outputs.mask_logits[0])
    benchmark.require_dense_masks(logits, geometry, found)
    with pytest.raises(RuntimeError, match="differ from the dense ones"):
        benchmark.require_dense_masks(logits.flip(0), geometry, found)


@pytest.mark.parametrize("value", [0.03, float("nan"), float("inf")])
def test_a_mask_head_that_is_off_is_not_timed(benchmark: ModuleType, value: float) -> None:
    want = torch.tensor([1.0, -2.0, 0.5])
    assert benchmark.relative_error("a", want + torch.tensor([0.0, 0.0, 0.002]), want, 2e-3) == pytest.approx(
        1e-3, rel=1e-4
    )
    with pytest.raises(RuntimeError, match=r"the mask head 'a' is .* off"):
        benchmark.relative_error("a", want + torch.tensor([0.0, value, 0.0]), want, 2e-3)


def test_the_99th_percentile_is_within_what_was_measured(
    benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Event:
        def __init__(self, **_: Any) -> None: ...

        def record(self) -> None: ...

        def elapsed_time(self, _: "Event") -> float:
            return next(times)

    times = iter([1.0, 2.0, 3.0, 4.0, 5.0])
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    assert benchmark.milliseconds(lambda: None, [()], 5) == {"median_ms": 3, "p99_ms": 4.96}


def test_what_is_printed_is_what_is_written(
    benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With machine, versions and commit: where only the output comes back, it is all there is."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "a GPU")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    monkeypatch.setattr(benchmark, "measured", lambda: {"float16_peak_tflops": 700})
    monkeypatch.setattr(benchmark, "targets_of", lambda metrics: [])
    monkeypatch.setattr(sys, "argv", ["gpu", "--out", str(tmp_path / "gpu.json")])
    assert benchmark.main() == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((tmp_path / "gpu.json").read_text())
    assert printed["float16_peak_tflops"] == 700
    assert printed["machine"]["gpu"] == "a GPU"
    assert {"torch", "torchvision", "triton"} <= printed["machine"]["versions"].keys()
    assert printed["machine"]["commit"]


def test_times_become_the_targets_that_were_asked_for(benchmark: ModuleType) -> None:
    def times(ms: float) -> dict[str, Any]:
        return {"graph": {"median_ms": ms}}

    ends = {name: {"median_ms": 4.0} for name in ("with_masks_on_the_gpu", "with_masks_on_the_host")}
    network = {"median_ms": 2.5, "share_of_measured_peak": 0.45} | ends
    targets = benchmark.targets_of(
        {
            "mask_head": {
                "K = 100": {"fused": times(0.0199), "speedup_over_grouped_convolution": 4.9},
                "K = 300": {"fused": times(0.061), "speedup_over_grouped_convolution": 5.0},
            },
            "selection": {"batch 1": {"fused": times(0.2)}, "batch 8": {"fused": times(0.31)}},
            "network": {"batch 1": network, "batch 8": network},
        }
    )
    assert [target.met for target in targets] == [True, False, False, True, True, False, True, True, None, None]
    assert targets[0].measured == pytest.approx(19.9)
    assert targets[5].measured == pytest.approx(1.55)
