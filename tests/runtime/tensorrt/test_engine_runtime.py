"""The engine runtime's real classes on strict doubles of driver and engine: results, order, lifetimes, failures."""

import gc
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from condinst_deploy.contract import InstanceDetections
from condinst_deploy.errors import BackendError
from condinst_deploy.runtime.cuda.driver import CudaError
from condinst_deploy.runtime.cuda.gpu_batches import GpuOutputs
from condinst_deploy.runtime.hot_shapes import HotLimits
from condinst_deploy.runtime.onnxruntime_backend import OnnxRuntimeBackend
from condinst_deploy.runtime.predictor import Predictor
from tests.support.batches import host_batch
from tests.support.engine_manifests import image_profile, with_fixed_shape
from tests.support.engines_on_doubles import engine_backend, manifest_of_onnx
from tests.support.models import noise_image
from tests.support.predictions import assert_about_equal, assert_equal
from tests.support.strict_calls import MisuseError
from tests.support.strict_driver import StrictDriver

pytestmark = pytest.mark.usefixtures("one_thread")

IMAGES = [noise_image(seed, 128, 160 + 32 * (seed % 3)) for seed in range(9)]


@pytest.fixture(scope="module")
def expected(slim_onnx: Path) -> list[InstanceDetections]:
    """Of each image alone."""
    with Predictor(slim_onnx, device="cpu") as predictor:
        return predictor(IMAGES)


def check(found: list[InstanceDetections], expected: list[InstanceDetections]) -> None:
    for ours, theirs in zip(found, expected, strict=True):
        assert_about_equal(ours, theirs)


def test_a_stream_finds_what_onnx_runtime_finds(slim_onnx: Path, expected: list[InstanceDetections]) -> None:
    with engine_backend(slim_onnx) as (backend, driver, _):
        predictor = Predictor(backend)
        assert predictor.batch_size == 8
        for _ in range(3):  # launched, then captured, then replayed
            check(predictor(IMAGES), expected)
        (slot,) = backend.slots.idle()
        assert slot.contexts.replays > 0
        assert driver.graphs_alive > 0
        del predictor, slot


@pytest.mark.parametrize(("cores", "finishers"), [(16, 3), (2, 2), (1, 1)])
def test_a_stream_beside_a_gpu_has_several_finishers(
    slim_onnx: Path, monkeypatch: pytest.MonkeyPatch, cores: int, finishers: int
) -> None:
    """One thread that makes detections is slower than the network on a GPU."""
    monkeypatch.setattr("condinst_deploy.runtime.predictor_options.usable_cores", lambda: cores)
    with engine_backend(slim_onnx) as (backend, _, _):
        predictor = Predictor(backend)
        assert predictor.stages.finishers == finishers
        del predictor
    with Predictor(slim_onnx, device="cpu") as portable:
        assert portable.stages.finishers == 1


def test_the_engine_hears_of_each_run(slim_onnx: Path) -> None:
    with engine_backend(slim_onnx) as (backend, _, engine):
        Predictor(backend, batch_size=1)(IMAGES[:2])
        assert engine.runs_seen == 2


def test_eight_threads_give_what_one_gives(slim_onnx: Path) -> None:
    with engine_backend(slim_onnx) as (backend, _, _):
        serial = [Predictor(backend, batch_size=1)([image])[0] for image in IMAGES]

        def work(seed: int) -> list[InstanceDetections]:
            order = np.random.default_rng(seed).permutation(len(IMAGES))
            found = {i: Predictor(backend, batch_size=1)([IMAGES[i]])[0] for i in order.tolist()}
            return [found[i] for i in range(len(IMAGES))]

        with ThreadPoolExecutor(8) as threads:
            for found in threads.map(work, range(8)):
                for ours, theirs in zip(found, serial, strict=True):
                    assert_equal(ours, theirs)


def test_no_run_changes_the_outputs_of_another(slim_onnx: Path) -> None:
    """All runs before the first postprocessing."""
    with engine_backend(slim_onnx) as (backend, _, _), OnnxRuntimeBackend.load(slim_onnx, "cpu") as reference:
        batches = [host_batch(backend, [image]) for image in IMAGES]
        outputs = [backend.forward(inputs) for inputs, _ in batches]
        for given, (inputs, geometries) in zip(outputs, batches, strict=True):
            (found,) = backend.postprocess(given, geometries)
            (want,) = reference.postprocess(reference.forward(inputs), geometries)
            assert len(want) > 0
            assert_equal(found, want)
        del outputs, given


def test_inputs_come_back_as_they_were_given(slim_onnx: Path) -> None:
    with engine_backend(slim_onnx) as (backend, _, _):
        inputs, _ = host_batch(backend, IMAGES[:1] * 3)
        batch = backend.collate([inputs])
        assert batch.images.shape[0] == 4  # filled up
        back = batch.on_host()
        np.testing.assert_array_equal(back.images[:3], inputs.images)
        np.testing.assert_array_equal(back.image_sizes[:3], inputs.image_sizes)
        assert not back.images[3].any()
        assert back.image_sizes[3].tolist() == list(inputs.images.shape[2:])
        del batch


def test_a_batch_is_filled_up_only_as_far_as_a_profile_goes(slim_onnx: Path) -> None:
    manifest = manifest_of_onnx(slim_onnx, image_profile((1, 32, 32), (6, 256, 256)))
    with engine_backend(slim_onnx, manifest) as (backend, _, _):
        assert backend.collate([host_batch(backend, IMAGES[:1] * 5)[0]]).images.shape[0] == 6
    narrow = manifest_of_onnx(
        slim_onnx, image_profile((1, 32, 32), (3, 256, 256)), image_profile((8, 32, 32), (8, 64, 64))
    )
    with engine_backend(slim_onnx, narrow) as (backend, _, _):
        assert backend.collate([host_batch(backend, IMAGES[:1] * 3)[0]]).images.shape[0] == 3


def test_memory_that_is_too_small_is_replaced_and_graphs_keep_theirs(slim_onnx: Path) -> None:
    small, large = noise_image(1, 64, 64), noise_image(2, 256, 250)
    with engine_backend(slim_onnx) as (backend, driver, _), Predictor(slim_onnx, device="cpu") as portable:
        predictor = Predictor(backend, batch_size=1)
        want = {0: portable([small])[0], 1: portable([large])[0]}
        before = []
        for step in (0, 0, 0, 1, 0, 1, 1, 0):
            found = predictor([(small, large)[step]])[0]
            assert_equal(found, want[step])
            before.append(driver.allocated())
        assert before[-1] > before[0]
        del predictor


def test_an_engine_of_one_shape_takes_that_shape(slim_onnx: Path) -> None:
    manifest = with_fixed_shape(manifest_of_onnx(slim_onnx), 1, 128, 224)
    with engine_backend(slim_onnx, manifest) as (backend, _, _):
        inputs, geometries = host_batch(backend, [noise_image(1, 128, 224)])
        assert isinstance(backend.forward(inputs), GpuOutputs)
        assert len(backend.postprocess(backend.forward(inputs), geometries)) == 1
        with pytest.raises(BackendError, match="the engine takes 1x3x128x224 only"):
            backend.forward(host_batch(backend, [noise_image(1, 128, 128)])[0])


# ---- captures


@pytest.mark.parametrize("change", [{"capturable": False}, {"graph_limits": None}])
def test_without_captures_every_run_is_launched(
    slim_onnx: Path, expected: list[InstanceDetections], change: dict[str, Any]
) -> None:
    with engine_backend(slim_onnx, **change) as (backend, driver, _):
        predictor = Predictor(backend, batch_size=1)
        for _ in range(4):
            check(predictor(IMAGES[:3]), expected[:3])
        assert driver.graphs_alive == 0
        (slot,) = backend.slots.idle()
        # the first refusal ends all tries
        assert slot.contexts.made <= 2
        del predictor, slot


def test_a_capture_that_fails_is_the_last_one_and_loses_no_result(
    slim_onnx: Path, expected: list[InstanceDetections], monkeypatch: pytest.MonkeyPatch
) -> None:
    driver, tries = StrictDriver(), list[int]()

    def broken(stream: int) -> int:
        tries.append(stream)
        driver.abandon_capture(stream)
        driver.begin_capture(stream)  # so that it can be abandoned again
        raise CudaError("cuStreamEndCapture", "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED")

    monkeypatch.setattr(driver, "end_capture", broken)
    with engine_backend(slim_onnx, driver=driver) as (backend, _, _):
        predictor = Predictor(backend, batch_size=1)
        for _ in range(4):
            check(predictor(IMAGES[:3]), expected[:3])
        del predictor
    assert len(tries) == 1


def test_the_coldest_graph_gives_way(slim_onnx: Path) -> None:
    limits = HotLimits(most=1, warm_up=2, gap=0, pause=1, hotter=2)
    with engine_backend(slim_onnx, graph_limits=limits) as (backend, driver, _):
        predictor = Predictor(backend, batch_size=1)
        for i in (0, 0, 1, 1, 1, 1, 1, 0):
            predictor([IMAGES[i]])
        assert driver.graphs_alive == 1
        del predictor


# ---- failures


def test_a_run_that_cannot_start_is_an_error_and_the_next_one_works(slim_onnx: Path) -> None:
    with engine_backend(slim_onnx) as (backend, _, engine):
        inputs, geometries = host_batch(backend, IMAGES[:1])
        engine.works = False
        with pytest.raises(BackendError, match="TensorRT could not run the engine"):
            backend.forward(inputs)
        engine.works = True
        assert len(backend.postprocess(backend.forward(inputs), geometries)[0]) > 0


def test_too_little_memory_names_a_smaller_batch(slim_onnx: Path) -> None:
    with engine_backend(slim_onnx, driver=StrictDriver(memory=400_000)) as (backend, _, _):
        with pytest.raises(BackendError, match="use a smaller batch_size or smaller images"):
            backend.forward(host_batch(backend, IMAGES[:1] * 8)[0])
        small, geometries = host_batch(backend, [noise_image(3, 32, 32)])
        assert len(backend.postprocess(backend.forward(small), geometries)) == 1


def test_after_an_error_that_stays_every_call_says_so(slim_onnx: Path) -> None:
    with engine_backend(slim_onnx) as (backend, driver, _):
        backend.check_health()
        inputs, geometries = host_batch(backend, IMAGES[:1])
        outputs = backend.forward(inputs)
        driver.fail_next = "CUDA_ERROR_ILLEGAL_ADDRESS"
        with pytest.raises(BackendError, match=r"fails with CUDA_ERROR_ILLEGAL_ADDRESS.*start a new process"):
            backend.postprocess(outputs, geometries)
        for call in (lambda: backend.forward(inputs), backend.check_health, backend.synchronize):
            with pytest.raises(BackendError, match=r"failed earlier in this process .* start a new process"):
                call()


def test_an_error_of_one_call_does_not_stay(slim_onnx: Path) -> None:
    with engine_backend(slim_onnx) as (backend, driver, _):
        inputs, _ = host_batch(backend, IMAGES[:1])
        backend.forward(inputs)
        driver.fail_next = "CUDA_ERROR_INVALID_VALUE"
        with pytest.raises(BackendError, match="CUDA_ERROR_INVALID_VALUE"):
            backend.forward(inputs)
        backend.check_health()
        backend.forward(inputs)


def test_closing_releases_everything_and_outputs_outlive_it(slim_onnx: Path) -> None:
    with engine_backend(slim_onnx) as (backend, driver, engine):
        inputs, geometries = host_batch(backend, IMAGES[:1])
        outputs = backend.forward(inputs)
        backend.close()
        assert engine.closed
        assert len(backend.postprocess(outputs, geometries)[0]) > 0
        with pytest.raises(BackendError, match="was closed; load it again"):
            backend.forward(inputs)
        backend.close()
        del outputs
        gc.collect()
        assert driver.graphs_alive == 0


def test_results_that_are_not_finite_are_an_error(slim_onnx: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with engine_backend(slim_onnx) as (backend, _, engine):
        run = engine.run

        def broken(inputs: dict[str, Any]) -> dict[str, Any]:
            outputs = run(inputs)
            return outputs | {"mask_logits": np.full_like(outputs["mask_logits"], np.nan)}

        monkeypatch.setattr(engine, "run", broken)
        inputs, geometries = host_batch(backend, IMAGES[:1])
        with pytest.raises(BackendError, match="the network gives NaN or infinity in"):
            backend.postprocess(backend.forward(inputs), geometries)


def test_the_double_notices_a_wait_that_is_missing(slim_onnx: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The runtime with its fault, so that the tests above mean something."""
    from condinst_deploy.runtime.cuda.gpu import Stream

    with engine_backend(slim_onnx) as (backend, driver, _):
        monkeypatch.setattr(Stream, "wait", lambda self, event: None)
        with pytest.raises(MisuseError, match="in another stream, and does not wait for it"):
            backend.forward(backend.collate([host_batch(backend, IMAGES[:1])[0]]))
        monkeypatch.undo()
        driver.misuses.clear()


def test_the_manifests_profile_decides(slim_onnx: Path) -> None:
    manifest = replace(manifest_of_onnx(slim_onnx, image_profile((1, 128, 128), (1, 128, 160))))
    with engine_backend(slim_onnx, manifest) as (backend, _, engine):
        with pytest.raises(BackendError, match="images are 1x3x128x192; the engine takes"):
            backend.forward(host_batch(backend, [IMAGES[1]])[0])
        assert len(engine.contexts) == 0
