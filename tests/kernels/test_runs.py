"""Masks made on the device, kernels and what is around them: the host's bytes, and the references' dense masks."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from condinst_deploy.contract import ImageGeometry, InstanceDetections, NetworkOutputs
from condinst_deploy.kernels import runs_launch
from condinst_deploy.kernels.extents import mask_extents
from condinst_deploy.kernels.runs_launch import Limits
from condinst_deploy.model.condinst import Instances
from condinst_deploy.model.mask_paste import dense_probabilities
from condinst_deploy.runtime import device_postprocess
from condinst_deploy.runtime.device_outputs import DeviceOutputs
from condinst_deploy.runtime.postprocess import ResultFilter, detections_from_outputs, masks_from_logits
from condinst_deploy.runtime.torch_backend import TorchBackend
from tests.support.batches import host_batch
from tests.support.device_results import Parts, Sizes, detections_of, predicted, results_on_device
from tests.support.gpu_work import occupy
from tests.support.interpreter import interpreted
from tests.support.mask_cases import BEYOND, SMALL, UNDECIDED, adversarial, blobs, outputs_with
from tests.support.models import SLIM, SLIM_ADELAIDET, manifest_of, noise_image

ORIGINALS = [
    (40, 160),
    (61, 97),
    (40, 190),
    (20, 33),
    (1, 1),
    (1, 50),
    (50, 1),
    (3, 150),
    (150, 8),
    (2, 2),
]
"""Small, for the interpreter takes a tenth of a second for a tile of 32x128 pixels."""
LARGE = [(800, 1333), (480, 640), (3000, 1000)]
TYPES = (torch.float32, torch.float16, torch.bfloat16)


def geometry_of(sizes: Sizes) -> ImageGeometry:
    return ImageGeometry(*sizes)


def sizes_of(originals: list[tuple[int, int]]) -> list[Sizes]:
    """A batch of images of these sizes, padded to the largest."""
    geometries = [ImageGeometry.of(original, SMALL) for original in originals]
    padded = (max(g.padded[0] for g in geometries), max(g.padded[1] for g in geometries))
    return [(g.original, g.resized, padded) for g in geometries]


def outputs_of(logits: Tensor) -> tuple[Tensor, ...]:
    """Network outputs with these logits `(B, K, h, w)` in slots that are all filled."""
    batch, slots = logits.shape[:2]
    boxes = torch.tensor([4.0, 8.0, 60.0, 40.0]).expand(batch, slots, 4).contiguous()
    scores = torch.linspace(0.9, 0.3, slots).expand(batch, slots).contiguous()
    return torch.full((batch,), slots, dtype=torch.int32), boxes, scores, (scores * 0).int(), logits


class Case:
    """Logits of a batch and the images' sizes."""

    def __init__(self, name: str, logits: Tensor, sizes: list[Sizes]) -> None:
        self.name, self.logits, self.sizes = name, logits, sizes

    def __str__(self) -> str:
        return self.name

    def call(self, device: str = "cpu") -> tuple[Any, ...]:
        return tuple(tensor.to(device) for tensor in outputs_of(self.logits)), self.sizes


def random_case(dtype: torch.dtype, originals: list[tuple[int, int]], slots: int) -> Case:
    sizes = sizes_of(originals)
    height, width = (side // 8 for side in sizes[0][2])
    planes = [blobs(seed, slots, height, width, scale=(1.0, 4.0, 30.0)[seed % 3]) for seed in range(len(sizes))]
    return Case(f"random, {str(dtype)[6:]}", torch.stack(planes).to(dtype), sizes)


def adversarial_case(original: tuple[int, int]) -> Case:
    sizes = sizes_of([original])
    height, width = (side // 8 for side in sizes[0][2])
    logits = torch.stack(list(adversarial(height, width).values()))
    return Case(f"adversarial, {original}", logits[None], sizes)


def any_geometry_case(seed: int) -> Case:
    """Noise in an image whose sides were resized by unequal factors; equal values, zeros and large values among it."""
    random = np.random.default_rng(seed)
    original, resized = (tuple(random.integers(1, side, 2).tolist()) for side in (120, 90))
    padded = tuple(-(-side // 32) * 32 for side in resized)
    noise = torch.from_numpy(random.normal(size=(1, 2, padded[0] // 8, padded[1] // 8))).float()
    logits = ((2 * noise).round() / 2, noise * 1e-6, noise * 200, torch.where(noise < 0.5, 0.0, noise))[seed % 4]
    return Case(f"any geometry, {seed}", logits, [(original, resized, padded)])


CASES = [
    random_case(torch.float32, ORIGINALS, 2),
    random_case(torch.float16, ORIGINALS[3:5], 3),
    random_case(torch.bfloat16, ORIGINALS[3:5], 3),
    adversarial_case((64, 120)),
    adversarial_case((30, 50)),
    *(any_geometry_case(seed) for seed in range(4)),
]
LARGE_CASES = [random_case(dtype, LARGE, 30) for dtype in TYPES]


def check(case: Case, found: list[Parts] | str) -> None:
    """Equal to the dense masks."""
    assert not isinstance(found, str)
    set_pixels = 0
    for logits, sizes, parts in zip(case.logits, case.sizes, found, strict=True):
        probabilities = dense_probabilities(logits.float(), geometry_of(sizes)).numpy()
        dense = np.asarray(detections_of(parts, sizes[0]).masks)
        assert dense.shape == probabilities.shape
        wrong = (dense != (probabilities > 0.5)) & (np.abs(probabilities - 0.5) > UNDECIDED)
        assert not wrong.any()
        set_pixels += int(dense.sum())
    assert set_pixels > 0


def adelaidets() -> tuple[NetworkOutputs, ImageGeometry]:
    return outputs_with(BEYOND), ImageGeometry((128, 192), (64, 96), (64, 96))


def broken(value: float, dtype: torch.dtype) -> tuple[Any, ...]:
    """One such logit, in a slot that holds no detection."""
    logits = torch.full((2, 3, 12, 20), -3.0, dtype=dtype)
    logits[1, 2, 11, 19] = value
    _, *others = outputs_of(logits)
    return (torch.zeros(2, dtype=torch.int32), *others), sizes_of([(96, 160)] * 2)


BROKEN = [(float("nan"), torch.float32), (float("inf"), torch.float16), (-float("inf"), torch.bfloat16)]
IMAGES = [noise_image(0, 96, 120)]
KEPT = 3


def extents_logits() -> Tensor:
    logits = torch.cat([blobs(seed, 3, 50, 70)[None] for seed in (1, 2)])
    logits[0, 1] = -1
    logits[1, 2] = 0
    logits[1, 2, 49, 0] = 1e-6
    return logits


@pytest.fixture(scope="module")
def results(slim_checkpoint: Path) -> dict[str, Any]:
    outputs, geometry = adelaidets()
    sizes = (geometry.original, geometry.resized, geometry.padded)
    tensors = tuple(torch.from_numpy(array) for array in outputs)
    calls: dict[str, tuple[str, tuple[Any, ...]]] = {str(case): ("results", case.call()) for case in CASES}
    calls |= {str(value): ("results", broken(value, dtype)) for value, dtype in BROKEN}
    tensors_of_two, sizes_of_two = broken(*BROKEN[0])
    calls["blank image"] = ("results", (tensors_of_two, sizes_of_two[:1]))
    calls["adelaidet"] = ("results", (tensors, [sizes], "adelaidet", 2))
    calls["no image"] = ("results", (tuple(t[:0] for t in tensors), []))
    calls["nothing found"] = ("results", ((tensors[0] * 0, *tensors[1:]), [sizes]))
    calls["extents"] = ("extents", (extents_logits(),))
    images = [torch.from_numpy(image) for image in IMAGES]
    calls["predicted"] = ("predicted", (str(slim_checkpoint), images, KEPT))
    return dict(zip(calls, interpreted(list(calls.values())), strict=True))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_masks_equal_the_dense_computation(results: dict[str, Any], case: Case) -> None:
    check(case, results[str(case)])


def check_extents(extents: Tensor) -> None:
    logits = extents_logits()
    assert extents.dtype == torch.int32
    for plane, found in zip(logits.flatten(0, 1), extents.flatten(0, 1).tolist(), strict=True):
        rows, columns = torch.nonzero((plane > 0).any(1))[:, 0], torch.nonzero((plane > 0).any(0))[:, 0]
        if len(rows) == 0:
            assert found[1] == found[3] == -1
        else:
            assert found[:4] == [int(rows[0]), int(rows[-1]), int(columns[0]), int(columns[-1])]
        assert found[4] == 0


@pytest.mark.parametrize("case", CASES, ids=str)
def test_masks_are_the_hosts_byte_for_byte(results: dict[str, Any], case: Case) -> None:
    for logits, sizes, parts in zip(case.logits, case.sizes, results[str(case)], strict=True):
        host = masks_from_logits(logits.float().numpy(), np.arange(len(logits)), geometry_of(sizes))
        assert detections_of(parts, sizes[0]).masks.rle() == host.rle()


def test_extents_are_those_of_the_positive_logits(results: dict[str, Any]) -> None:
    check_extents(results["extents"])


@pytest.mark.parametrize(("value", "dtype"), BROKEN, ids=str)
def test_a_logit_that_is_not_finite_is_an_error_in_whichever_slot(
    results: dict[str, Any], value: float, dtype: torch.dtype
) -> None:
    assert "the network gives NaN or infinity" in results[str(value)]


def test_what_is_not_finite_in_a_blank_image_of_the_batch_does_not_matter(results: dict[str, Any]) -> None:
    (parts,) = results["blank image"]
    assert parts["crops"] == []


def test_boxes_scores_and_limits_are_those_of_the_host(results: dict[str, Any]) -> None:
    outputs, geometry = adelaidets()
    (parts,) = results["adelaidet"]
    found = detections_of(parts, geometry.original, "adelaidet")
    chosen = ResultFilter(max_detections=2)
    (want,) = detections_from_outputs(outputs, [geometry], manifest_of(SLIM_ADELAIDET), chosen)
    assert len(found) == len(want) == 2
    np.testing.assert_array_equal(found.boxes, want.boxes)
    np.testing.assert_array_equal(found.scores, want.scores)
    np.testing.assert_array_equal(found.labels, want.labels)
    assert found.masks.rle() == want.masks.rle()


def test_no_image_and_no_detection_are_fine(results: dict[str, Any]) -> None:
    assert results["no image"] == []
    (parts,) = results["nothing found"]
    assert len(detections_of(parts, (128, 192))) == 0


def check_predicted(checkpoint: Path, found: list[Parts]) -> None:
    with TorchBackend.load(checkpoint, "cpu") as backend:
        inputs, geometries = host_batch(backend, IMAGES)
        want = backend.postprocess(backend.forward(inputs), geometries, ResultFilter(max_detections=KEPT))
    for parts, expected, geometry in zip(found, want, geometries, strict=True):
        detections = detections_of(parts, geometry.original)
        assert len(detections) == len(expected) == KEPT
        np.testing.assert_allclose(detections.boxes, expected.boxes, atol=1e-2)
        np.testing.assert_allclose(detections.scores, expected.scores, atol=1e-4)
        assert detections.labels.tolist() == expected.labels.tolist()
        ours, theirs = np.asarray(detections.masks), np.asarray(expected.masks)
        assert theirs.any()
        assert np.mean(ours != theirs) < 1e-3


def test_a_backend_goes_from_images_to_masks_on_the_device(results: dict[str, Any], slim_checkpoint: Path) -> None:
    """Kernels for selection, mask head and masks, in one run; on the other side the references."""
    check_predicted(slim_checkpoint, results["predicted"])


def test_a_batch_that_is_too_large_goes_in_turns() -> None:
    limits = Limits(scratch=400)
    sides = [(5, 10), (5, 11), (1, 1), (99, 99), (0, 0), (4, 8)]  # rows and columns of probabilities
    crops = np.array([[0, 0, 0, *side, 0, 1, 0, 1] for side in sides])
    columns = runs_launch.ColumnTables(np.zeros(1, dtype=np.int32), np.zeros(1, dtype=np.float32))
    found = runs_launch.MaskCrops(crops, np.zeros((6, 3)), columns)
    turns = [launch.table[:, runs_launch.ROWS].tolist() for launch in runs_launch.launches(found, limits)]
    assert turns == [[5], [5, 1], [99], [0, 4]]
    nothing = runs_launch.MaskCrops(crops[:0], np.zeros((0, 3)), columns)
    assert list(runs_launch.launches(nothing, limits)) == []


def test_an_image_too_large_for_the_kernels_is_made_on_the_host() -> None:
    """On a CPU a launch would fail, so this result is the host's."""
    limits = Limits(changes=192 * (2 * 8 + 4) - 1)
    outputs = outputs_with([[0.0, 0.0, 8.0, 8.0]])
    sizes = ((128, 192), (64, 96), (64, 96))
    found = results_on_device(tuple(torch.from_numpy(array) for array in outputs), [sizes], limits=limits)
    assert not isinstance(found, str)
    assert len(detections_of(found[0], sizes[0])) == 1


@pytest.mark.gpu
@pytest.mark.parametrize("case", CASES + LARGE_CASES, ids=str)
def test_the_compiled_kernels_give_the_dense_masks(case: Case) -> None:
    check(case, results_on_device(*case.call("cuda")))


@pytest.mark.gpu
def test_the_compiled_kernel_finds_extents_and_what_is_not_finite() -> None:
    check_extents(mask_extents(extents_logits().cuda()).cpu())
    for value, dtype in BROKEN:
        tensors, sizes = broken(value, dtype)
        found = results_on_device(tuple(tensor.cuda() for tensor in tensors), sizes)
        assert isinstance(found, str)
        assert "the network gives NaN or infinity" in found


@pytest.mark.gpu
def test_a_backend_on_a_gpu_gives_what_it_gives_on_a_cpu(slim_checkpoint: Path) -> None:
    images = [torch.from_numpy(image) for image in IMAGES]
    check_predicted(slim_checkpoint, predicted(str(slim_checkpoint), images, KEPT, "cuda"))


@pytest.mark.gpu
def test_masks_that_are_made_in_turns_are_the_same() -> None:
    tensors, sizes = CASES[0].call("cuda")
    check(CASES[0], results_on_device(tensors, sizes, limits=Limits(scratch=64)))


@pytest.mark.gpu
def test_masks_are_made_while_the_networks_stream_is_busy() -> None:
    """The next run of the network must not hold up the masks of this one."""
    case = CASES[0]
    outputs = DeviceOutputs.of(Instances(*(tensor.cuda() for tensor in outputs_of(case.logits))))
    geometries = [geometry_of(sizes) for sizes in case.sizes]

    def found() -> list[InstanceDetections]:
        return device_postprocess.detections_from_device(outputs, geometries, manifest_of(SLIM), ResultFilter())

    want = found()  # kernels are compiled and memory is made the first time, which waits
    torch.cuda.synchronize()
    occupy(4_000_000_000)  # about two seconds
    got = found()
    assert not torch.cuda.current_stream().query()
    assert [each.masks.rle() for each in got] == [each.masks.rle() for each in want]
