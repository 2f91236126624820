"""An engine of TensorRT without TensorRT: a double that checks how contexts are used.

Shapes, addresses, activation memory and streams are checked as NVIDIA's documents ask for them. Results are those of
ONNX Runtime on the exported file that the engine stands for; without a file, runs only mark what they touch.
"""

import ctypes
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from weakref import WeakSet

import numpy as np

from condinst_deploy.contract import INPUTS, OUTPUTS
from condinst_deploy.contract.engine_manifest import EngineManifest
from condinst_deploy.runtime.cuda.driver import CudaError
from condinst_deploy.runtime.hot_shapes import HotLimits
from tests.support.strict_calls import MisuseError
from tests.support.strict_driver import StrictDriver
from tests.support.strict_state import Span, Work

ALIGNMENT = 256


@dataclass(eq=False)
class StrictEngine:
    """Takes the place of `condinst_deploy.runtime.tensorrt.engine.Engine`.

    Attributes:
        driver: the double whose streams the runs are given to.
        manifest: tensors and profiles.
        onnx: computes the results; None: nothing does.
        graph_limits: as of `Engine`.
        capturable: whether the library allows captures.
        works: whether runs can be started.
        refused: tensor whose address is not taken.
    """

    driver: StrictDriver
    manifest: EngineManifest
    onnx: Path | None = None
    graph_limits: HotLimits | None = field(default_factory=HotLimits)
    capturable: bool = True
    works: bool = True
    refused: str = ""
    slots: int = 100
    contexts: "WeakSet[StrictContext]" = field(default_factory=lambda: WeakSet())  # alive
    closed: bool = False
    runs_seen: int = 0

    def ran(self) -> None:
        if self.closed:
            raise MisuseError("an engine that was closed is asked to run")
        self.runs_seen += 1

    def context(self) -> "StrictContext":
        if self.closed:
            raise MisuseError("a context is made of an engine that was closed")
        context = StrictContext(self)
        self.contexts.add(context)
        return context

    def close(self) -> None:
        if len(self.contexts):
            raise MisuseError("an engine is closed before its contexts")
        self.closed = True

    def memory_of(self, batch: int, height: int, width: int) -> int:
        """Bytes of activations: a made-up number that grows with the shape."""
        return batch * height * width * 4

    def shapes_of(self, batch: int, height: int, width: int) -> dict[str, tuple[int, ...]]:
        shapes: dict[str, tuple[int, ...]] = {"images": (batch, 3, height, width), "image_sizes": (batch, 2)}
        shapes |= {"num_detections": (batch,), "boxes": (batch, self.slots, 4)}
        shapes |= {"scores": (batch, self.slots), "labels": (batch, self.slots)}
        return shapes | {"mask_logits": (batch, self.slots, height // 8, width // 8)}

    def run(self, inputs: dict[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
        """Results of ONNX Runtime."""
        import onnxruntime

        if not hasattr(self, "_session"):
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = 1
            self._session = onnxruntime.InferenceSession(str(self.onnx), options, providers=["CPUExecutionProvider"])
        return dict(zip(OUTPUTS, self._session.run(list(OUTPUTS), inputs), strict=True))


class StrictContext:
    """An execution context with activation memory of the user."""

    def __init__(self, engine: StrictEngine) -> None:
        self._engine = engine
        self._driver = engine.driver
        self.profile: int | None = None
        self._images: tuple[int, ...] | None = None
        self._sizes: tuple[int, ...] | None = None
        self._addresses: dict[str, int] = {}
        self._activations: tuple[int, int] | None = None
        self._planned: tuple[int, ...] | None = None  # shape that the memory was asked for
        self._stream: int | None = None
        self._flushed = False  # whether a run has followed the last change of shapes
        self.runs = 0
        self.graph_of: int | None = None

    def set_optimization_profile_async(self, profile: int, stream: int) -> bool:
        self._driver.stream_state(stream, "set_optimization_profile_async")
        self.profile = profile
        return 0 <= profile < len(self._engine.manifest.profiles)

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        if self.profile is None:
            raise MisuseError("a shape is set before the profile")
        if self.graph_of is not None:
            raise MisuseError("a context is reshaped that a graph was captured from")
        if not self._engine.manifest.profiles[self.profile][name].covers(tuple(shape)):
            return False
        if name == INPUTS[0]:
            self._images = tuple(shape)
        else:
            self._sizes = tuple(shape)
        self._flushed = False
        return True

    def update_device_memory_size_for_shapes(self) -> int:
        batch, height, width = self._shape()
        self._planned = (batch, height, width)
        return self._engine.memory_of(batch, height, width)

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self._engine.shapes_of(*self._shape())[name]

    def set_device_memory(self, address: int, size: int) -> None:
        if address % ALIGNMENT:
            raise MisuseError("activation memory is not aligned")
        self._activations = (address, size)

    def set_tensor_address(self, name: str, address: int) -> bool:
        if address % ALIGNMENT:
            raise MisuseError(f"{name} is not aligned")
        self._addresses[name] = address
        return name != self._engine.refused

    def is_stream_capturable(self, stream: int) -> bool:
        return self._engine.capturable

    def execute_async_v3(self, stream: int) -> bool:
        if not self._engine.works:
            return False
        captured = self._driver.stream_state(stream, "execute_async_v3").captured is not None
        self._check_run(stream, captured)
        self._stream, self._flushed = stream, True
        self.runs += 1
        if captured:
            self.graph_of = stream
        try:
            with self._driver.checked_call("execute_async_v3"):
                self._driver.give(stream, self._work())
        except CudaError:
            return False  # the library prints the reason
        return True

    def _check_run(self, stream: int, captured: bool) -> None:
        if self._stream not in (None, stream):
            raise MisuseError("a context changes its stream")
        if captured and not self._engine.capturable:
            raise MisuseError("a run is captured that the library does not allow to capture")
        if captured and not self._flushed:
            raise MisuseError("a run is captured before one has followed the change of shapes")
        if self._activations is None or self._activations[1] < self._engine.memory_of(*self._shape()):
            raise MisuseError("a run has too little activation memory")
        missing = [name for name in self._engine.shapes_of(*self._shape()) if name not in self._addresses]
        if missing:
            raise MisuseError(f"a run has no address for {missing}")
        self._check_stream(stream, self._activations[0])

    def _check_stream(self, stream: int, memory: int) -> None:
        """Contexts that run in turn on one stream share activation memory; others are of another slot."""
        users = self._driver.activations
        if stream in users and users[stream][0] is not self._engine:
            raise MisuseError("two engines use one stream")
        users[stream] = self._engine, memory
        if any(other == memory for number, (_, other) in users.items() if number != stream):
            raise MisuseError("two streams use one activation memory")

    def _work(self) -> Work:
        """A run at the shapes and addresses of now."""
        assert self._activations is not None
        shapes, addresses = self._engine.shapes_of(*self._shape()), dict(self._addresses)
        kinds = {tensor.name: np.dtype(tensor.dtype) for tensor in self._engine.manifest.tensors}
        spans = [
            Span(addresses[name], int(np.prod(sides)) * kinds[name].itemsize, name in OUTPUTS)
            for name, sides in shapes.items()
        ]
        spans.append(Span(self._activations[0], self._engine.memory_of(*self._shape()), True))
        engine = self._engine  # a graph does not keep the context

        def execute() -> None:
            arrays = {name: _view(addresses[name], sides, kinds[name]) for name, sides in shapes.items()}
            found = engine.run({name: arrays[name].copy() for name in INPUTS})
            for name, values in found.items():
                arrays[name][...] = values

        return Work("a run of the engine", tuple(spans), execute if engine.onnx is not None else None)

    def _shape(self) -> tuple[int, int, int]:
        fixed = {tensor.name: tensor.shape for tensor in self._engine.manifest.inputs}
        images = self._images if self._engine.manifest.profiles else fixed[INPUTS[0]]
        if images is None or (self._engine.manifest.profiles and (self._sizes or (0,))[0] != images[0]):
            raise MisuseError("not all input shapes are set")
        return images[0], images[2], images[3]


def _view(address: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    size = int(np.prod(shape)) * dtype.itemsize
    content = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))
    return content.view(dtype).reshape(shape)
