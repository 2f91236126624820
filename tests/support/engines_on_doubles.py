"""A `TensorRtBackend` whose driver and engine are the strict doubles, and whose results are ONNX Runtime's."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnxruntime

from condinst_deploy.contract import MANIFEST_KEY, ModelManifest
from condinst_deploy.contract.engine_manifest import EngineManifest
from condinst_deploy.runtime.cuda.gpu import Gpu
from condinst_deploy.runtime.tensorrt.backend import TensorRtBackend
from tests.support.engine_manifests import engine_manifest, image_profile
from tests.support.resize_on_double import resize_on_double
from tests.support.runs_on_double import RUNS_ON_DOUBLE
from tests.support.strict_driver import StrictDriver
from tests.support.strict_engine import StrictEngine

LARGEST = 256
KERNELS_ON_DOUBLE = {"resize_kernel": resize_on_double, **RUNS_ON_DOUBLE}


def manifest_of_onnx(path: Path, *profiles: Any) -> EngineManifest:
    """Manifest of an engine of an exported file."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    model = ModelManifest.from_json(session.get_modelmeta().custom_metadata_map[MANIFEST_KEY])
    chosen = profiles or (image_profile((1, 32, 32), (8, LARGEST, LARGEST)),)
    return engine_manifest(*chosen, model=model, logits="float32", slots=model.selection.max_detections)


@contextmanager
def engine_backend(
    onnx: Path, manifest: EngineManifest | None = None, driver: StrictDriver | None = None, **changes: Any
) -> Iterator[tuple[TensorRtBackend, StrictDriver, StrictEngine]]:
    """The backend for an exported file. At the end nothing was misused, and all memory went back.

    Args:
        onnx: the file.
        manifest: of the engine; None: batches of 1 to 8, sides of 32 to 256.
        driver: None: a new one.
        changes: fields of `StrictEngine`.
    """
    chosen, made = manifest or manifest_of_onnx(onnx), driver or StrictDriver()
    made.kernels |= KERNELS_ON_DOUBLE
    engine = StrictEngine(made, chosen, onnx, slots=chosen.model.selection.max_detections, **changes)
    backend = TensorRtBackend(engine, chosen, Gpu(made))  # type: ignore[arg-type]
    try:
        yield backend, made, engine
    finally:
        if made.failure is None:
            backend.close()
    assert made.misuses == []
    if made.failure is None:
        backend.gpu.release_idle()
        assert made.graphs_alive == 0
        assert (made.allocated(), made.allocated(pinned=True)) == (0, 0)
