"""The engine runtime as far as a machine without a GPU goes: what it refuses, and why, before anything runs."""

import hashlib
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from condinst_deploy.contract import InstanceDetections, NetworkInputs
from condinst_deploy.contract.engine_manifest import (
    MODULES,
    EngineManifest,
    EngineTensor,
    FoundPrecision,
    manifest_path,
    write_engine,
)
from condinst_deploy.errors import ArtifactError, BackendError, ConfigError
from condinst_deploy.imaging.decode import RGBArray
from condinst_deploy.runtime.backend import Backend
from condinst_deploy.runtime.cuda.driver import OUT_OF_MEMORY, CudaError
from condinst_deploy.runtime.cuda.gpu import Gpu
from condinst_deploy.runtime.cuda.gpu_batches import GpuOutputs
from condinst_deploy.runtime.devices import driver_present
from condinst_deploy.runtime.predictor import Predictor, load_backend
from condinst_deploy.runtime.tensorrt.backend import TensorRtBackend, runtime_library
from condinst_deploy.runtime.tensorrt.shapes import BatchShape, largest_batch, profile_of
from tests.support.batches import host_batch
from tests.support.engine_manifests import image_profile
from tests.support.models import manifest_of, noise_image
from tests.support.strict_driver import StrictDriver
from tests.support.strict_engine import StrictEngine

PLAN = b"not a plan that a library could read"


DYNAMIC = EngineManifest(
    flavour="rtx",
    library_version="1.7.1.116",
    precision="float16",
    found=FoundPrecision("typed network", {"float16": 10}),
    targets=("86",),
    tensors=(
        EngineTensor("images", "input", "uint8", (-1, 3, -1, -1)),
        EngineTensor("image_sizes", "input", "int32", (-1, 2)),
        EngineTensor("mask_logits", "output", "float16", (-1, 100, -1, -1)),
    ),
    profiles=(image_profile((1, 128, 128), (1, 256, 256)), image_profile((2, 128, 128), (4, 256, 512))),
    model=manifest_of(),
    onnx="model.onnx",
    onnx_sha256="0" * 64,
    plan_sha256=hashlib.sha256(PLAN).hexdigest(),
    plan_bytes=len(PLAN),
)
FIXED = replace(
    DYNAMIC,
    profiles=(),
    tensors=(
        EngineTensor("images", "input", "uint8", (2, 3, 128, 224)),
        EngineTensor("image_sizes", "input", "int32", (2, 2)),
    ),
)


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    path = tmp_path / "model.engine"
    write_engine(path, PLAN, DYNAMIC)
    return path


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with an H200."""
    monkeypatch.setattr("condinst_deploy.runtime.tensorrt.backend.driver_present", lambda: True)
    monkeypatch.setattr("condinst_deploy.runtime.tensorrt.backend.shared_gpu", lambda index: Gpu(StrictDriver()))


@pytest.mark.parametrize(
    ("shape", "number"),
    [((1, 128, 128), 0), ((1, 256, 256), 0), ((2, 128, 160), 1), ((4, 256, 512), 1)],
)
def test_the_profile_follows_from_the_shape(shape: tuple[int, int, int], number: int) -> None:
    assert profile_of(DYNAMIC, BatchShape(*shape)) == number


@pytest.mark.parametrize("shape", [(1, 96, 128), (1, 256, 288), (5, 128, 128), (4, 256, 544)])
def test_a_shape_outside_every_profile_is_refused_with_the_ranges(shape: tuple[int, int, int]) -> None:
    text = f"{shape[0]}x3x{shape[1]}x{shape[2]}"
    ranges = "1x3x128x128 to 1x3x256x256 or 2x3x128x128 to 4x3x256x512"
    with pytest.raises(BackendError, match=f"images are {text}; the engine takes {ranges}: build it again"):
        profile_of(DYNAMIC, BatchShape(*shape))


def test_an_engine_of_fixed_shapes_takes_that_shape_alone() -> None:
    assert profile_of(FIXED, BatchShape(2, 128, 224)) is None
    with pytest.raises(BackendError, match="images are 1x3x128x224; the engine takes 2x3x128x224 only"):
        profile_of(FIXED, BatchShape(1, 128, 224))


def test_the_largest_batch_is_that_of_some_profile() -> None:
    assert largest_batch(DYNAMIC) == 4
    assert largest_batch(FIXED) == 2


def test_without_a_gpu_loading_says_so(engine: Path) -> None:
    if driver_present():
        pytest.skip("this machine has a GPU")
    with pytest.raises(BackendError, match=r"needs an NVIDIA GPU, and device='auto' means cpu here"):
        load_backend(engine)
    with pytest.raises(BackendError, match="no NVIDIA driver is loaded on this machine"):
        load_backend(engine, "cuda")


def test_the_manifest_is_checked_before_the_machine(engine: Path) -> None:
    engine.write_bytes(PLAN + b"!")
    with pytest.raises(ArtifactError, match=r"is not the plan that model\.engine\.json describes"):
        load_backend(engine)
    manifest_path(engine).unlink()
    with pytest.raises(ArtifactError, match=r"model\.engine has no manifest"):
        load_backend(engine)


@pytest.mark.usefixtures("gpu")
def test_an_engine_for_another_gpu_is_refused_before_it_is_loaded(engine: Path) -> None:
    with pytest.raises(ArtifactError, match=r"for GPUs of compute capability 86 and this one has 90"):
        load_backend(engine)
    write_engine(engine, PLAN, replace(DYNAMIC, library_version="1.0"))
    with pytest.raises(ArtifactError, match=r"built by version 1\.0 and .* is installed"):
        load_backend(engine)
    write_engine(engine, PLAN, replace(DYNAMIC, targets=("90",), weights_stripped=True))
    with pytest.raises(ArtifactError, match="has no weights"):
        load_backend(engine)


def test_an_engine_whose_backend_cannot_be_made_is_released(engine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no memory for the stream of the uploads."""
    driver, closed = StrictDriver(), list[str]()
    driver.refusals["create_stream", 1] = OUT_OF_MEMORY
    place = "condinst_deploy.runtime.tensorrt.backend"
    logger = type("Logger", (), {"ERROR": 0, "__init__": lambda self, level: None})
    library = SimpleNamespace(Logger=logger, __version__=DYNAMIC.library_version)
    monkeypatch.setattr(f"{place}.driver_present", lambda: True)
    monkeypatch.setattr(f"{place}.shared_gpu", lambda index: Gpu(driver))
    monkeypatch.setattr(f"{place}.runtime_library", lambda flavour: library)
    monkeypatch.setattr(f"{place}.engine_from_plan", lambda *_, **__: object())
    monkeypatch.setattr(f"{place}.Engine", lambda *_: SimpleNamespace(close=lambda: closed.append("engine")))
    write_engine(engine, PLAN, replace(DYNAMIC, targets=("90",)))
    with pytest.raises(CudaError, match="create_stream fails with CUDA_ERROR_OUT_OF_MEMORY"):
        TensorRtBackend.load(engine)
    assert closed == ["engine"]
    assert driver.streams_alive == 0


def test_a_missing_library_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    assert hasattr(runtime_library("rtx"), "Runtime")
    monkeypatch.setitem(MODULES, "rtx", "a_library_that_is_not_there")
    with pytest.raises(BackendError, match=r"pip install 'condinst-deploy\[engine\]' tensorrt-rtx"):
        runtime_library("rtx")


def backend() -> TensorRtBackend:
    driver = StrictDriver()
    return TensorRtBackend(StrictEngine(driver, DYNAMIC), DYNAMIC, Gpu(driver))  # type: ignore[arg-type]


def test_a_batch_outside_the_profiles_stops_before_any_context_is_made() -> None:
    inputs = NetworkInputs(np.zeros((8, 3, 128, 128), np.uint8), np.full((8, 2), 128, np.int32))
    made = backend()
    with pytest.raises(BackendError, match="images are 8x3x128x128"):
        made.forward(inputs)
    assert made.slots.idle() == []


def test_a_closed_engine_says_so() -> None:
    with backend() as made:
        pass
    inputs = NetworkInputs(np.zeros((1, 3, 128, 128), np.uint8), np.full((1, 2), 128, np.int32))
    with pytest.raises(BackendError, match="was closed; load it again"):
        made.forward(inputs)


def test_a_predictor_never_asks_for_more_than_the_engine_takes() -> None:
    made = backend()
    assert Predictor(made).batch_size == 4
    with pytest.raises(ConfigError, match="batch_size is 5; the engine was built for at most 4"):
        Predictor(made, batch_size=5)


def one_by_one(backend: Backend, images: list[RGBArray]) -> list[InstanceDetections]:
    """All runs before the first postprocessing: no run may write into the outputs of another."""
    batches = [host_batch(backend, [image]) for image in images]
    outputs = [backend.forward(inputs) for inputs, _ in batches]
    assert all(isinstance(each, GpuOutputs) for each in outputs)
    results = []
    for given, (inputs, geometries) in zip(outputs, batches, strict=True):
        (found,) = backend.postprocess(given, geometries)
        (want,) = backend.postprocess(backend.forward(inputs).on_host(), geometries)
        np.testing.assert_array_equal(found.boxes, want.boxes)
        ours, theirs = np.asarray(found.masks), np.asarray(want.masks)
        assert np.mean(ours != theirs) < 1e-4
        results.append(found)
    return results


@pytest.mark.gpu
def test_an_rtx_engine_gives_what_onnx_runtime_gives(slim_onnx: Path, tmp_path: Path) -> None:
    """On a workstation's GPU: two shapes, a batch, the second run of a shape captured, two threads."""
    from concurrent.futures import ThreadPoolExecutor

    from condinst_engines.build_files import EngineFiles
    from condinst_engines.build_recipe import BuildRecipe, RtxSettings
    from condinst_engines.builder_library import load_builder_library
    from condinst_engines.engine_file import engine_from_onnx
    from condinst_engines.plan_builder import Surroundings

    library = load_builder_library()
    major, minor = torch.cuda.get_device_capability()
    capability = f"{major}{minor}"
    if library.builds_ahead and capability not in library.targets:
        pytest.skip(f"TensorRT for RTX has no engines for compute capability {capability}")
    recipe = BuildRecipe(profiles=("1x3x128x128:1x3x128x224:2x3x224x224",), rtx=RtxSettings((capability,)))
    path, _ = engine_from_onnx(EngineFiles(slim_onnx, tmp_path / "slim.engine"), recipe, library, Surroundings())
    images = [noise_image(seed, 128, 160 + 32 * (seed % 2)) for seed in range(4)]
    with Predictor(path) as engine, Predictor(slim_onnx, device="cpu") as portable:
        want = portable(images)
        with ThreadPoolExecutor(2) as threads:
            rounds = list(threads.map(lambda _: engine(images), range(6)))
        rounds.append(one_by_one(engine.backend, images))
        assert isinstance(engine.backend, TensorRtBackend)
        (slot,) = engine.backend.slots.idle()
        # shapes share the context of the profile; TensorRT for RTX makes graphs by itself
        assert slot.contexts.made == 1 or slot.contexts.replays > 0
    for got in rounds:
        for found, expected in zip(got, want, strict=True):
            assert len(found) == len(expected) > 0
            np.testing.assert_allclose(found.boxes, expected.boxes, atol=0.1)
            np.testing.assert_allclose(found.scores, expected.scores, atol=1e-3)
