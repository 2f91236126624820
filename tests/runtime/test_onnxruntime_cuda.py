"""ONNX Runtime's CUDA provider with bound inputs and outputs, on strict doubles of the driver and the session.

The double's results are those of ONNX Runtime on a CPU, bound to the same memory. Nothing of this has run on a GPU.
"""

import gc
import inspect
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from condinst_deploy.contract import InstanceDetections, ModelManifest, NetworkInputs
from condinst_deploy.contract.manifest import MANIFEST_KEY
from condinst_deploy.errors import BackendError
from condinst_deploy.runtime import onnxruntime_backend
from condinst_deploy.runtime.cuda.gpu import Gpu, Stream
from condinst_deploy.runtime.cuda.gpu_batches import GpuInputs, GpuOutputs
from condinst_deploy.runtime.devices import Device
from condinst_deploy.runtime.onnxruntime_backend import OnnxRuntimeBackend, cuda_options
from condinst_deploy.runtime.onnxruntime_cuda import CudaRuns, GpuPlace
from condinst_deploy.runtime.predictor import Predictor
from tests.support.batches import host_batch
from tests.support.engines_on_doubles import KERNELS_ON_DOUBLE
from tests.support.models import noise_image
from tests.support.predictions import assert_about_equal, assert_equal
from tests.support.strict_driver import StrictDriver
from tests.support.strict_session import StrictBinding, StrictSession

pytestmark = pytest.mark.usefixtures("one_thread")

IMAGES = [noise_image(seed, 128, 128 + 32 * (seed % 2)) for seed in range(4)]


@contextmanager
def gpu_backend(onnx_file: Path, index: int = 0) -> Iterator[tuple[OnnxRuntimeBackend, StrictDriver, StrictSession]]:
    """The backend on doubles. At the end nothing was misused, and all memory went back."""
    driver = StrictDriver(kernels=KERNELS_ON_DOUBLE)
    gpu = Gpu(driver)
    with gpu.current():
        place = GpuPlace(gpu, index, Stream(gpu))
    session = StrictSession(driver, onnx_file, int(place.stream.handle), index)
    manifest = ModelManifest.from_json(session.get_modelmeta().custom_metadata_map[MANIFEST_KEY])
    runs = CudaRuns(place, session, manifest, onnx_file.name)
    backend = OnnxRuntimeBackend(session, manifest, f"cuda:{index}", onnx_file.name, runs)
    try:
        yield backend, driver, session
    finally:
        if driver.failure is None:
            backend.close()
    assert driver.misuses == []
    gc.collect()
    if driver.failure is None:
        gpu.release_idle()
        assert (driver.allocated(), driver.allocated(pinned=True)) == (0, 0)


@pytest.fixture(scope="module")
def expected(slim_onnx: Path) -> list[InstanceDetections]:
    with Predictor(slim_onnx, device="cpu") as predictor:
        return predictor(IMAGES)


def check(found: list[InstanceDetections], expected: list[InstanceDetections]) -> None:
    for ours, theirs in zip(found, expected, strict=True):
        assert_about_equal(ours, theirs)


def test_a_stream_finds_what_the_cpu_finds(slim_onnx: Path, expected: list[InstanceDetections]) -> None:
    with gpu_backend(slim_onnx, index=1) as (backend, _, session):
        predictor = Predictor(backend)
        assert predictor.batch_size == 8
        check(predictor(IMAGES), expected)
        assert session.runs == 2  # one for each padded shape
        del predictor


def test_inputs_and_outputs_have_the_form_of_engines_and_stay_on_the_gpu(slim_onnx: Path) -> None:
    with gpu_backend(slim_onnx) as (backend, _, _):
        writer = backend.input_writer
        geometries = [backend.geometry(image) for image in IMAGES[:2]]
        with OnnxRuntimeBackend.load(slim_onnx, "cpu") as reference:
            want = reference.collate([reference.input_writer.from_image(IMAGES[0], geometries[0])])
            outputs_wanted = reference.forward(want)
        inputs = backend.collate([writer.from_image(IMAGES[0], geometries[0])])
        assert isinstance(inputs, GpuInputs)
        outputs = backend.forward(inputs)
        assert isinstance(outputs, GpuOutputs)
        for ours, theirs in zip(outputs.on_host(), outputs_wanted.on_host(), strict=True):
            np.testing.assert_array_equal(ours, theirs)
        copied = backend.forward(NetworkInputs(*want.on_host()))  # of another writer
        for ours, theirs in zip(copied.on_host(), outputs_wanted.on_host(), strict=True):
            np.testing.assert_array_equal(ours, theirs)
        del inputs, outputs, copied, writer


def test_eight_threads_give_what_one_gives(slim_onnx: Path) -> None:
    with gpu_backend(slim_onnx) as (backend, _, _), ThreadPoolExecutor(8) as threads:
        predictor = Predictor(backend)
        alone = [predictor([image])[0] for image in IMAGES]
        for found, want in zip(threads.map(lambda i: predictor([IMAGES[i % 4]])[0], range(8)), alone * 2, strict=True):
            assert_equal(found, want)


def test_no_run_changes_the_outputs_of_another(slim_onnx: Path) -> None:
    with gpu_backend(slim_onnx) as (backend, _, _), OnnxRuntimeBackend.load(slim_onnx, "cpu") as reference:
        batches = [host_batch(backend, [image])[0] for image in IMAGES[:4]]
        outputs = [backend.forward(inputs) for inputs in batches]
        for given, inputs in zip(outputs, batches, strict=True):
            for ours, theirs in zip(given.on_host(), reference.forward(inputs).on_host(), strict=True):
                np.testing.assert_array_equal(ours, theirs)
        del outputs, given


def test_memory_of_a_run_that_fails_is_used_again_only_behind_it(slim_onnx: Path) -> None:
    with gpu_backend(slim_onnx) as (backend, _, session):
        inputs, _ = host_batch(backend, [IMAGES[0]])
        session.fails = "Non-zero status code returned while running Conv node"
        with pytest.raises(BackendError, match=r"ONNX Runtime cannot run slim\.onnx \(Non-zero status code"):
            backend.forward(inputs)
        again = backend.forward(inputs)  # gets the same memory
        assert again.on_host().num_detections[0] > 0
        del again


def test_a_graph_of_other_shapes_is_an_error_of_onnx_runtime(slim_onnx: Path, tmp_path: Path) -> None:
    """ONNX Runtime compares a bound output's shape with the graph's, before it writes."""
    proto = onnx.load(slim_onnx)
    entry = next(each for each in proto.metadata_props if each.key == MANIFEST_KEY)
    entry.value = entry.value.replace('"max_detections":100', '"max_detections":90')
    assert '"max_detections":90' in entry.value
    onnx.save(proto, tmp_path / "other.onnx")
    with gpu_backend(tmp_path / "other.onnx") as (backend, driver, _):
        outputs = backend.forward(host_batch(backend, [IMAGES[0]])[0])
        with pytest.raises(Exception, match="invalid dimensions for output: boxes"):
            driver.run_all()
        del outputs


def test_the_double_notices_a_wait_that_is_missing(slim_onnx: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Stream, "wait", lambda self, event: None)
    with pytest.raises(AssertionError), gpu_backend(slim_onnx) as (backend, _, _):  # noqa: PT012
        part = backend.input_writer.from_image(IMAGES[0], backend.geometry(IMAGES[0]))
        with pytest.raises(BackendError, match="reads memory that resize_kernel writes in another stream"):
            backend.forward(backend.collate([part]))


def test_after_an_error_that_stays_every_call_says_so(slim_onnx: Path) -> None:
    with gpu_backend(slim_onnx) as (backend, driver, _):
        inputs, _ = host_batch(backend, [IMAGES[0]])
        backend.check_health()
        driver.fail_next = "CUDA_ERROR_ILLEGAL_ADDRESS"
        with pytest.raises(BackendError, match="start a new process"):
            backend.forward(inputs)
        for call in (lambda: backend.forward(inputs), backend.check_health):
            with pytest.raises(BackendError, match=r"failed earlier in this process \(CUDA_ERROR_ILLEGAL_ADDRESS\)"):
                call()
        backend.close()  # the error was shown


def test_a_closed_model_says_so_and_outputs_outlive_it(slim_onnx: Path) -> None:
    with gpu_backend(slim_onnx) as (backend, _, _):
        inputs, geometries = host_batch(backend, [IMAGES[0]])
        outputs = backend.forward(inputs)
        backend.close()
        backend.close()
        with pytest.raises(BackendError, match="was closed; load it again"):
            backend.forward(inputs)
        assert len(backend.postprocess(outputs, geometries)[0]) > 0
        del outputs


def test_a_fixed_batch_is_filled_up_with_blank_images(slim_onnx: Path) -> None:
    with gpu_backend(slim_onnx) as (backend, _, _):
        backend.manifest = replace(backend.manifest, static_shape=(3, 128, 224))
        parts = [backend.input_writer.from_image(image, backend.geometry(image)) for image in IMAGES[:2]]
        images, sizes = backend.collate(parts).on_host()
        assert images.shape == (3, 3, 128, 224)
        assert not images[2].any()
        assert sizes[2].tolist() == [128, 224]
        del parts


def test_logits_in_half_precision_stay_half(slim_onnx: Path, tmp_path: Path) -> None:
    proto = onnx.load(slim_onnx)
    logits = next(value for value in proto.graph.output if value.name == "mask_logits")
    logits.type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    for node in proto.graph.node:
        node.output[:] = ["full_logits" if name == "mask_logits" else name for name in node.output]
    proto.graph.node.append(
        onnx.helper.make_node("Cast", ["full_logits"], ["mask_logits"], to=logits.type.tensor_type.elem_type)
    )
    onnx.save(proto, tmp_path / "half.onnx")
    with gpu_backend(tmp_path / "half.onnx") as (backend, _, _), Predictor(tmp_path / "half.onnx", device="cpu") as p:
        outputs = backend.forward(host_batch(backend, [IMAGES[0]])[0])
        assert isinstance(outputs, GpuOutputs)
        assert outputs.mask_logits.dtype == np.float16
        check(Predictor(backend)(IMAGES[:1]), p(IMAGES[:1]))
        del outputs


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (StrictBinding.bind_input, onnxruntime.IOBinding.bind_input),
        (StrictBinding.bind_output, onnxruntime.IOBinding.bind_output),
        (StrictSession.run_with_iobinding, onnxruntime.InferenceSession.run_with_iobinding),
    ],
)
def test_the_double_takes_what_the_installed_onnx_runtime_takes(ours: Any, theirs: Any) -> None:
    assert list(inspect.signature(ours).parameters) == list(inspect.signature(theirs).parameters)


def test_the_session_gets_the_stream_and_no_exhaustive_search() -> None:
    assert cuda_options(1, 4096) == {
        "device_id": "1",
        "use_tf32": "0",
        "cudnn_conv_algo_search": "HEURISTIC",
        "user_compute_stream": "4096",
    }
    assert "user_compute_stream" not in cuda_options(0, None)


def test_onnx_runtime_makes_no_cuda_graph_of_a_loop(slim_onnx: Path) -> None:
    """Why `enable_cuda_graph` is not set: the graph has a Loop."""
    assert any(node.op_type == "Loop" for function in onnx.load(slim_onnx).functions for node in function.node)


def test_loading_opens_the_session_on_a_stream_of_ours(slim_onnx: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything of `load` but the provider itself."""
    driver = StrictDriver(kernels=KERNELS_ON_DOUBLE)
    monkeypatch.setattr("condinst_deploy.runtime.onnxruntime_cuda.shared_gpu", lambda index: Gpu(driver))
    monkeypatch.setattr(onnxruntime_backend, "driver_present", lambda: True)
    seen: list[GpuPlace] = []

    def opened(content: bytes, name: str, device: Device, threads: Any, folder: Any, place: Any) -> StrictSession:
        seen.append(place)
        return StrictSession(driver, slim_onnx, int(place.stream.handle), device.index)

    monkeypatch.setattr(onnxruntime_backend, "opened_session", opened)
    with OnnxRuntimeBackend.load(slim_onnx, "cuda") as backend:
        assert backend.device == "cuda:0"
        assert not backend.note
        outputs = backend.forward(host_batch(backend, [IMAGES[0]])[0])
        assert isinstance(outputs, GpuOutputs)
        backend.synchronize()

    def refused(*_: Any) -> Any:
        raise BackendError("no")

    monkeypatch.setattr(onnxruntime_backend, "opened_session", refused)
    with pytest.raises(BackendError, match="no"):
        OnnxRuntimeBackend.load(slim_onnx, "cuda")
    assert driver.misuses == []
    assert len(seen) == 1


def test_without_the_bindings_inputs_and_outputs_cross_through_the_host(
    slim_onnx: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("condinst_deploy.runtime.cuda.driver.bindings_present", lambda: False)
    monkeypatch.setattr(onnxruntime_backend, "driver_present", lambda: True)
    real = onnxruntime.InferenceSession(str(slim_onnx), providers=["CPUExecutionProvider"])
    monkeypatch.setattr(onnxruntime_backend, "opened_session", lambda *_: real)
    with Predictor(slim_onnx, device="cuda") as predictor:
        assert "cuda-bindings is not installed" in predictor.backend.note
        assert len(predictor([IMAGES[0]])[0]) > 0


@pytest.mark.gpu
def test_the_cuda_provider_gives_what_the_cpu_gives(slim_onnx: Path, expected: list[InstanceDetections]) -> None:
    """On a machine with a GPU: several shapes, batches, eight threads, outputs that live beside later runs."""
    with Predictor(slim_onnx, device="cuda") as predictor, ThreadPoolExecutor(8) as threads:
        assert not predictor.backend.note
        rounds = list(threads.map(lambda _: predictor(IMAGES), range(8)))
        outputs = [predictor.backend.forward(host_batch(predictor.backend, [image])[0]) for image in IMAGES]
        assert all(isinstance(each, GpuOutputs) for each in outputs)
        with OnnxRuntimeBackend.load(slim_onnx, "cpu") as reference:
            for given, image in zip(outputs, IMAGES, strict=True):
                want = reference.forward(host_batch(reference, [image])[0]).on_host()
                np.testing.assert_allclose(given.on_host().scores, want.scores, atol=1e-3)
    for found in rounds:
        for ours, theirs in zip(found, expected, strict=True):
            assert len(ours) == len(theirs) > 0
            np.testing.assert_allclose(ours.boxes, theirs.boxes, atol=0.1)
            np.testing.assert_allclose(ours.scores, theirs.scores, atol=1e-3)
