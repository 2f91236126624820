"""Which form of the operations runs where; what the kernels compute is tested beside this."""

from pathlib import Path

import pytest
import torch

from condinst_deploy.kernels import mask_head, operations, select
from condinst_deploy.kernels.operations import fused_operations, operations_for
from condinst_deploy.model.operations import REFERENCE, Operations
from condinst_deploy.runtime.torch_backend import TorchBackend
from tests.support.batches import host_batch
from tests.support.models import SLIM, noise_image, seeded_model


def test_a_gpu_gets_the_kernels_and_a_cpu_the_references() -> None:
    assert operations_for(torch.device("cpu")) is REFERENCE
    chosen = operations_for(torch.device("cuda:0"))
    assert chosen == Operations(select.fused_select_instances, mask_head.fused_mask_head)


def test_kernels_run_on_a_gpu_and_where_triton_interprets(monkeypatch: pytest.MonkeyPatch) -> None:
    assert operations.kernels_run_on(torch.device("cuda:0"))
    assert not operations.kernels_run_on(torch.device("cpu"))
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert operations.kernels_run_on(torch.device("cpu"))


def test_without_a_c_compiler_a_gpu_gets_the_references_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = torch.device("cuda:0")
    assert operations.missing_for_kernels(gpu) == ""
    monkeypatch.setattr(operations, "which", lambda name: None)
    monkeypatch.delenv("CC", raising=False)
    assert operations_for(gpu) is REFERENCE
    assert "need a C compiler" in operations.missing_for_kernels(gpu)
    assert operations.missing_for_kernels(torch.device("cpu")) == ""
    monkeypatch.setenv("CC", "/opt/cc")
    assert operations.kernels_run_on(gpu)


def test_without_triton_a_gpu_gets_the_references(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operations, "find_spec", lambda name: None)
    assert operations_for(torch.device("cuda")) is REFERENCE


def test_the_network_calls_what_its_backend_chose(slim_checkpoint: Path) -> None:
    """Each operation once for a batch of two images: selection, too, takes all images at once."""
    called: list[tuple[str, torch.Size]] = []

    def select_and_note(boxes: torch.Tensor, *rest: object) -> tuple[torch.Tensor, torch.Tensor]:
        called.append(("select", boxes.shape[:1]))
        return REFERENCE.select(boxes, *rest)  # type: ignore[arg-type]

    def head_and_note(feats: torch.Tensor, *rest: object) -> torch.Tensor:
        called.append(("mask head", feats.shape[:1]))
        return REFERENCE.mask_head(feats, *rest)  # type: ignore[arg-type]

    backend = TorchBackend.load(slim_checkpoint, "cpu")
    assert backend.model.operations is REFERENCE
    backend.model.operations = Operations(select_and_note, head_and_note)
    inputs, _ = host_batch(backend, [noise_image(seed, 128, 160) for seed in (1, 2)])
    outputs = backend.forward(inputs).on_host()
    assert called == [("select", torch.Size([2])), ("mask head", torch.Size([2]))]
    assert min(outputs.num_detections) > 0


def test_what_the_kernels_do_not_cover_goes_to_the_references() -> None:
    """On a CPU a launch would fail, so these results are the references'."""
    fused = fused_operations()
    double = torch.zeros(1, 8, 3, 4, dtype=torch.float64), torch.zeros(1, 2, 169, dtype=torch.float64)
    assert fused.mask_head(*double, torch.zeros(1, 2, 2), torch.ones(1, 2), 8).shape == (1, 2, 3, 4)
    odd = torch.zeros(1, 8, 3, 4), torch.zeros(1, 2, 20 * 10 + 20 * 20 + 20 + 20 + 20 + 1)
    assert fused.mask_head(*odd, torch.zeros(1, 2, 2), torch.ones(1, 2), 20).shape == (1, 2, 3, 4)
    many = torch.zeros(1, select.MOST_CANDIDATES + 1)
    _, count = fused.select(torch.zeros(*many.shape, 4), many, many, 0.6, 5)
    assert count.tolist() == [0]


def test_training_keeps_its_gradients() -> None:
    params = torch.randn(1, 2, 169, requires_grad=True)
    logits = fused_operations().mask_head(torch.randn(1, 8, 3, 4), params, torch.zeros(1, 2, 2), torch.ones(1, 2), 8)
    logits.sum().backward()
    assert params.grad is not None
    assert float(params.grad.abs().max()) > 0


@pytest.mark.gpu
def test_the_whole_network_gives_the_same_with_kernels_and_references() -> None:
    model = seeded_model(SLIM).cuda()
    images = torch.from_numpy(noise_image(1, 128, 160)).permute(2, 0, 1)[None].cuda()
    sizes = torch.tensor([[128, 160]]).cuda()
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False, deterministic=True):
        want = model(images, sizes)
        model.operations = fused_operations()
        got = model(images, sizes)
    assert got.num_detections.tolist() == want.num_detections.tolist()
    torch.testing.assert_close(got.boxes, want.boxes)
    torch.testing.assert_close(got.mask_logits, want.mask_logits, atol=1e-3, rtol=1e-4)
