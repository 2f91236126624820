"""A session of ONNX Runtime's CUDA provider without a GPU: a double that checks how it is bound and run.

It gives runs to the stream of the strict driver that it was opened with. Their results are those of the real ONNX
Runtime on the CPU provider, bound to the same memory with the same types and shapes.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from condinst_deploy.contract import INPUTS, OUTPUTS
from condinst_deploy.runtime.onnxruntime_session import DO_NOT_WAIT
from tests.support.strict_calls import MisuseError
from tests.support.strict_driver import StrictDriver
from tests.support.strict_state import Span, Work

Bound = tuple[Any, list[int], int]
"""Element type, shape and address."""


class StrictBinding:
    """An `onnxruntime.IOBinding`; its methods have the parameters of the real one."""

    def __init__(self, session: "StrictSession") -> None:
        self.session = session
        self.inputs: dict[str, Bound] = {}
        self.outputs: dict[str, Bound] = {}

    def bind_input(
        self, name: str, device_type: str, device_id: int, element_type: Any, shape: Sequence[int], buffer_ptr: int
    ) -> None:
        self._check(name, INPUTS, device_type, device_id)
        self.inputs[name] = element_type, list(shape), buffer_ptr

    def bind_output(
        self,
        name: str,
        device_type: str = "cpu",
        device_id: int = 0,
        element_type: Any = None,
        shape: Sequence[int] | None = None,
        buffer_ptr: int | None = None,
    ) -> None:
        self._check(name, OUTPUTS, device_type, device_id)
        if buffer_ptr is None or shape is None:
            raise MisuseError(f"{name} is bound without memory, which ONNX Runtime then allocates")
        self.outputs[name] = element_type, list(shape), buffer_ptr

    def _check(self, name: str, names: Sequence[str], device_type: str, device_id: int) -> None:
        if name not in names or (device_type, device_id) != ("cuda", self.session.index):
            raise MisuseError(f"{name} is bound to {device_type}:{device_id}")


class StrictSession:
    """Takes the place of an `onnxruntime.InferenceSession` of the CUDA provider.

    Attributes:
        stream: handle of its stream.
        fails: message of an error that the next run has after it has given half of its work to the GPU.
        runs: runs so far.
    """

    def __init__(self, driver: StrictDriver, path: Path, stream: int, index: int = 0) -> None:
        self._driver, self.stream, self.index = driver, stream, index
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._real = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.fails: str | None = None
        self.runs = 0

    def get_inputs(self) -> Any:
        return self._real.get_inputs()

    def get_outputs(self) -> Any:
        return self._real.get_outputs()

    def get_modelmeta(self) -> Any:
        return self._real.get_modelmeta()

    def io_binding(self) -> StrictBinding:
        return StrictBinding(self)

    def run_with_iobinding(self, iobinding: StrictBinding, run_options: Any = None) -> None:
        if iobinding.session is not self:
            raise MisuseError("a binding of another session")
        if run_options is None or run_options.get_run_config_entry(DO_NOT_WAIT) != "1":
            raise MisuseError("a run waits for the GPU at its end")
        if set(iobinding.inputs) != set(INPUTS) or set(iobinding.outputs) != set(OUTPUTS):
            raise MisuseError("not everything is bound")
        bound = [(each, False) for each in iobinding.inputs.values()]
        bound += [(each, True) for each in iobinding.outputs.values()]
        spans = [Span(at, int(np.prod(shape)) * np.dtype(kind).itemsize, w) for (kind, shape, at), w in bound]
        inputs, outputs = dict(iobinding.inputs), dict(iobinding.outputs)
        failure, self.fails = self.fails, None
        run = None if failure is not None else lambda: self._compute(inputs, outputs)
        with self._driver.checked_call("run_with_iobinding"):
            self._driver.give(self.stream, Work("a run of the session", tuple(spans), run))
        self.runs += 1
        if failure is not None:
            raise RuntimeError(failure)

    def _compute(self, inputs: dict[str, Bound], outputs: dict[str, Bound]) -> None:
        binding = self._real.io_binding()
        for bind, values in ((binding.bind_input, inputs), (binding.bind_output, outputs)):
            for name, (kind, shape, address) in values.items():
                bind(name, "cpu", 0, kind, shape, address)
        self._real.run_with_iobinding(binding)
