"""The GPU benchmark starts anywhere; what of it needs no GPU is right."""

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from condinst_deploy.model.mask_head import dynamic_mask_head
from condinst_deploy.model.operations import REFERENCE
from condinst_export.graph import ExportGraph
from tests.models import SLIM, noise_picture, seeded_model
from tests.operations import MaskHeadCase, mask_head_cases

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu.py"


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    spec = importlib.util.spec_from_file_location("benchmark_gpu", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu_it_says_so_in_one_line() -> None:
    run = subprocess.run([sys.executable, str(SCRIPT)], capture_output=True, text=True, check=False)
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
    images = torch.stack([torch.from_numpy(noise_picture(seed, 96, 128)).permute(2, 0, 1) for seed in (3, 4)])
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


def test_its_half_network_runs_from_picture_to_masks(benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU with the reference operations, called once where a GPU is timed."""
    monkeypatch.setattr(benchmark, "HEIGHT", 128)
    monkeypatch.setattr(benchmark, "WIDTH", 224)
    model = benchmark.HalfCondInst(SLIM).eval()
    assert model.head.cls_logits.bias is not None
    torch.nn.init.constant_(model.head.cls_logits.bias, -2.0)
    for part in (model.backbone, model.fpn, model.head, model.mask_branch):
        part.half().to(memory_format=torch.channels_last)
    graph = ExportGraph(model, REFERENCE).eval()
    images = torch.randint(256, (2, 3, 128, 224), dtype=torch.uint8)
    sizes = torch.tensor([[128, 224]] * 2, dtype=torch.int32)
    masks: list[int] = []
    make = benchmark.detections_from_outputs

    def noted(*arguments: object) -> object:
        found = make(*arguments)
        masks.extend(len(detections.masks) for detections in found)
        return found

    monkeypatch.setattr(benchmark, "detections_from_outputs", noted)
    monkeypatch.setattr(benchmark, "milliseconds", lambda call, inputs, runs=1: [call(*each) for each in inputs])
    with torch.no_grad():
        outputs = graph(images, sizes)
        benchmark.end_to_end(graph, [images], sizes)
    assert outputs.mask_logits.dtype == torch.float16
    assert bool(torch.isfinite(outputs.mask_logits).all())
    assert masks == outputs.num_detections.tolist()
    assert min(masks) > 0
