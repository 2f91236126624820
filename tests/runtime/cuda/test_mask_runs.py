"""Runs of masks found on a GPU, through the strict double of the driver: the host's bytes, order and lifetimes."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import pytest
import torch

from condinst_deploy.contract import ImageGeometry, NetworkOutputs
from condinst_deploy.errors import BackendError
from condinst_deploy.kernels.runs_launch import Limits
from condinst_deploy.model.config import SOI_STRIDES
from condinst_deploy.model.mask_head import dynamic_mask_head
from condinst_deploy.runtime.cuda.gpu import Gpu, Stream
from condinst_deploy.runtime.cuda.mask_runs import detections_from_gpu
from condinst_deploy.runtime.postprocess import ResultFilter
from tests.support.mask_batches import MANIFEST, batch, check, found_on, on_gpu, random_batch
from tests.support.mask_cases import adversarial
from tests.support.models import GOLDEN
from tests.support.runs_on_double import RUNS_ON_DOUBLE
from tests.support.strict_calls import MisuseError
from tests.support.strict_driver import StrictDriver

P5, P5_STRIDE = 2, 32


def adversarial_batch() -> tuple[NetworkOutputs, list[ImageGeometry]]:
    logits = torch.stack(list(adversarial(8, 15).values()))
    return batch(logits[None], [(64, 120)])


@contextmanager
def a_gpu(driver: StrictDriver | None = None) -> Iterator[Gpu]:
    """A GPU that is a double; at the end nothing was misused and all memory went back."""
    made = driver or StrictDriver(kernels=RUNS_ON_DOUBLE)
    gpu = Gpu(made)
    yield gpu
    assert made.misuses == []
    gpu.release_idle()
    assert (made.allocated(), made.allocated(pinned=True)) == (0, 0)


@pytest.mark.parametrize("seed", range(4))
def test_masks_are_the_hosts_byte_for_byte(seed: int) -> None:
    outputs, geometries = random_batch(seed)
    with a_gpu() as gpu:
        check(found_on(gpu, outputs, geometries), outputs, geometries)


def test_adversarial_masks_are_the_hosts() -> None:
    outputs, geometries = adversarial_batch()
    with a_gpu() as gpu:
        check(found_on(gpu, outputs, geometries), outputs, geometries)


def test_masks_that_are_found_in_turns_are_the_same() -> None:
    outputs, geometries = random_batch(5)
    with a_gpu() as gpu:
        check(found_on(gpu, outputs, geometries, Limits(scratch=2000)), outputs, geometries)


def test_blank_images_and_images_without_detections_are_left_out() -> None:
    outputs, geometries = random_batch(2)
    outputs.num_detections[1] = 0
    outputs.mask_logits[2:] = np.nan  # blank
    with a_gpu() as gpu:
        found = found_on(gpu, outputs, geometries[:2])
        assert [len(each) for each in found] == [3, 0]
        check(found, outputs, geometries[:2])
        assert found_on(gpu, outputs, []) == []


def test_masks_without_a_pixel_have_no_runs() -> None:
    outputs, geometries = batch(torch.full((2, 3, 20, 20), -1.0), [(61, 97), (40, 190)])
    with a_gpu() as gpu:
        found = found_on(gpu, outputs, geometries)
        check(found, outputs, geometries)
        assert sum(len(runs) for each in found for runs in each.masks.runs) == 0


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_an_error(value: float) -> None:
    outputs, geometries = random_batch(0)
    outputs.mask_logits[3, 2, 19, 19] = value
    with a_gpu() as gpu, pytest.raises(BackendError, match="the network gives NaN or infinity"):
        found_on(gpu, outputs, geometries)


def test_a_gpu_or_an_image_that_the_kernels_do_not_cover_has_its_masks_made_on_the_host() -> None:
    outputs, geometries = random_batch(1)
    with a_gpu(StrictDriver(capability=(7, 0))) as gpu:  # it would not know the kernels
        check(found_on(gpu, outputs, geometries), outputs, geometries)
    with a_gpu(StrictDriver()) as gpu:
        check(found_on(gpu, outputs, geometries, Limits(changes=1000)), outputs, geometries)


def test_several_finishers_find_runs_while_the_network_writes_the_next_batch() -> None:
    """Two batches are on the network's stream at any time; each finisher has its own stream."""
    cases = [random_batch(seed, images=2, slots=2) for seed in range(8)]
    with a_gpu() as gpu:
        with gpu.current(), Stream(gpu) as network, ThreadPoolExecutor(3) as finishers:
            pending = []
            for outputs, geometries in cases:
                given = on_gpu(gpu, network, outputs)
                pending.append(
                    finishers.submit(detections_from_gpu, given, geometries, MANIFEST, ResultFilter(max_detections=50))
                )
                del given
                if len(pending) > 2:
                    pending[-3].result()
            for (outputs, geometries), each in zip(cases, pending, strict=True):
                check(each.result(), outputs, geometries)
        del pending, each


@pytest.mark.parametrize("method", ["wait", "downloaded"])
def test_the_double_notices_a_wait_that_is_missing(monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    """The same with a fault, so that the tests above mean something."""
    outputs, geometries = random_batch(0)
    gpu = Gpu(StrictDriver(kernels=RUNS_ON_DOUBLE))
    if method == "wait":
        monkeypatch.setattr(Stream, "wait", lambda self, event: None)
    else:
        whole = Stream.downloaded

        def early(self: Stream, arrays: list[object]) -> list[object]:
            monkeypatch.setattr(gpu.driver, "synchronize_event", lambda event: None)
            return whole(self, arrays)  # type: ignore[arg-type]

        monkeypatch.setattr(Stream, "downloaded", early)
    with pytest.raises((MisuseError, BackendError, ValueError, IndexError)):
        found_on(gpu, outputs, geometries)


def test_runs_of_adelaidets_own_mask_features_are_its_masks() -> None:
    """Golden: mask features, the controller's output at P5, locations and masks, as AdelaiDet gave them."""
    golden = np.load(GOLDEN / "adelaidet" / "coffee_seed0.npz")
    at_p5 = np.flatnonzero(golden["im0_levels"] == P5)
    points = golden["im0_locations"][at_p5]
    x, y = ((points - P5_STRIDE // 2) / P5_STRIDE).astype(int).T
    params = torch.from_numpy(golden["top_p5"][0][:, y, x].T[None])
    soi = torch.full((1, len(at_p5)), SOI_STRIDES * P5_STRIDE, dtype=torch.float32)
    logits = dynamic_mask_head(torch.from_numpy(golden["mask_feats"]), params, torch.from_numpy(points)[None], soi)
    sizes = (tuple(golden[f"im0_{name}_hw"].tolist()) for name in ("original", "resized", "padded"))
    geometry = ImageGeometry(*sizes)
    scale = np.array([geometry.resized[1] / geometry.original[1], geometry.resized[0] / geometry.original[0]] * 2)
    outputs = NetworkOutputs(
        np.array([len(at_p5)], np.int32),
        (golden["im0_boxes"][at_p5] * scale).astype(np.float32)[None],
        golden["im0_scores"][at_p5][None],
        np.zeros((1, len(at_p5)), np.int32),
        logits.numpy(),
    )
    with a_gpu() as gpu:
        (found,) = found_on(gpu, outputs, [geometry])
        check([found], outputs, [geometry])
    wanted = np.unpackbits(golden["im0_masks_packed"][at_p5], axis=2)[..., : geometry.original[1]].astype(bool)
    ours = np.asarray(found.masks).astype(bool)
    assert len(ours) == len(wanted) > 20
    different = (ours != wanted).sum(axis=(1, 2))
    assert (different <= np.maximum(1, 0.001 * wanted.sum(axis=(1, 2)))).all(), different
