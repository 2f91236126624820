"""The streams of the GPU's benchmark: their images, their masks, and what of them is timed."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import gpu_streams
from condinst_deploy.imaging.decode import rgb_from
from condinst_deploy.model.condinst import CondInst
from tests.support.batches import host_batch
from tests.support.engines_on_doubles import engine_backend
from tests.support.models import noise_image


def test_the_images_are_jpegs_of_mixed_sizes() -> None:
    images = gpu_streams.jpegs(6, seed=0)
    assert len({image.name for image in images}) > 1
    for image in images:
        assert "x".join(map(str, rgb_from(image).shape[1::-1])) == image.name
    assert [image.content for image in gpu_streams.jpegs(2, seed=0)] == [image.content for image in images[:2]]


def test_the_masks_have_the_areas_that_it_says() -> None:
    areas = (gpu_streams.ellipse_logits(100, 150)[0] > 0).float().mean((1, 2))
    assert 0.03 < float(areas.median()) < 0.08


@pytest.mark.usefixtures("one_thread")
def test_an_engines_masks_are_the_ellipses(slim_onnx: Path) -> None:
    """On the strict doubles: outputs of the engine are replaced, and their masks are found as always."""
    with engine_backend(slim_onnx) as (backend, _, _):
        image = noise_image(0, 128, 192)
        inputs, geometries = host_batch(backend, [image, image])
        ellipses = gpu_streams.OnGpu()
        outputs = ellipses.instead_of(backend.forward(inputs))
        for found in backend.postprocess(outputs, geometries):
            assert len(found) == gpu_streams.SLOTS
            assert 0.02 < float(np.median(found.masks.areas)) / (128 * 192) < 0.1
        again = ellipses.instead_of(backend.forward(inputs))
        assert again.mask_logits is outputs.mask_logits
        del outputs, again, ellipses


class Clocked:
    """A predictor that gives an image in so many seconds of a clock."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.now, self.given = seconds, 0.0, 0

    def stream(self, images: Any) -> Any:
        for _ in images:
            self.now += self.seconds
            self.given += 1
            yield SimpleNamespace(detections=SimpleNamespace(masks=SimpleNamespace(rle=lambda: [b""] * 100)))


@pytest.mark.parametrize(
    ("seconds", "before", "images"),
    [
        (0.002, gpu_streams.FIRST, gpu_streams.IMAGES),
        (1 / 64, gpu_streams.FIRST, 1281),  # 20 s
        (1.0, 31, 21),  # 30 and 20 s
    ],
)
def test_the_rate_is_that_behind_the_first_images(
    monkeypatch: pytest.MonkeyPatch, seconds: float, before: int, images: int
) -> None:
    predictor = Clocked(seconds)
    monkeypatch.setattr("benchmarks.gpu_streams.time.perf_counter", lambda: predictor.now)
    found = gpu_streams.images_per_second(predictor, gpu_streams.jpegs(2, seed=3))  # type: ignore[arg-type]
    assert found == {
        "images_per_s": pytest.approx(1 / seconds, abs=0.1),
        "masks_of_an_image": 100,
        "images": images,
        "images_before": before,
    }
    assert predictor.given == before + images


def test_the_operations_of_the_network_are_those_that_are_counted() -> None:
    """Convolutions are counted without computing them; the controller's and the mask head's follow from their sizes."""
    with torch.device("meta"):
        model = CondInst().eval()
        images = torch.empty(1, 3, 800, 1344)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.features_before_controller(images)
    controller = 2 * gpu_streams.SLOTS * 256 * 3 * 3 * 169
    mask_head = 2 * gpu_streams.SLOTS * (10 * 8 + 8 * 8 + 8) * (800 // 8) * (1344 // 8)
    counted = (counter.get_total_flops() + controller + mask_head) / 1e9
    assert counted == pytest.approx(gpu_streams.GFLOP, abs=0.05)


def test_the_network_alone_has_its_time_and_share_of_the_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    clock = iter([0.0, 0.4, 1.0, 2.0])  # the second pair: 100 runs in a second

    class Counting:
        def collate(self, parts: Any) -> Any:
            assert parts[0].images.shape == (8, 3, 800, 1344)
            return parts

        def forward(self, inputs: Any) -> None:
            calls.append("forward")

        def synchronize(self) -> None:
            calls.append("synchronize")

    monkeypatch.setattr("benchmarks.gpu_streams.time.perf_counter", lambda: next(clock))
    found = gpu_streams.network_alone(Counting(), 740.64)  # type: ignore[arg-type]
    assert calls == [*["forward"] * 20, "synchronize", *["forward"] * 100, "synchronize"]
    assert found == {"network_batch_8_ms": 10.0, "network_share_of_measured_peak": 0.5}
