"""One execution context of an engine. Its memory is ours, so contexts that run in turn share it."""

from collections.abc import Mapping
from typing import Any

from condinst_deploy.errors import BackendError
from condinst_deploy.runtime.cuda.gpu import Stream
from condinst_deploy.runtime.cuda.memory_pools import Block
from condinst_deploy.runtime.tensorrt.shapes import BatchShape


class ExecutionContext:
    """A context at one shape at a time. One stream uses it, and one thread at a time."""

    def __init__(self, context: Any, profile: int | None, stream: Stream) -> None:
        """Choose the profile.

        Raises:
            BackendError: the engine refuses it.
        """
        self._context, self._stream = context, stream
        self._fixed = profile is None
        self._shape: BatchShape | None = None
        if profile is not None and not context.set_optimization_profile_async(profile, int(stream.handle)):
            raise BackendError(f"the engine refuses profile {profile}; the library printed the reason above")

    def reshape(self, shape: BatchShape) -> None:
        """Take a shape of the profile.

        Raises:
            BackendError: the engine refuses it.
        """
        if self._fixed or self._shape == shape:
            return
        for name, sides in shape.inputs.items():
            if not self._context.set_input_shape(name, sides):
                raise BackendError(f"the engine refuses {name} of shape {sides}; the library printed the reason above")
        self._shape = shape

    @property
    def memory_needed(self) -> int:
        """Bytes of activation memory at the shape."""
        return int(self._context.update_device_memory_size_for_shapes())

    def tensor_shapes(self, names: list[str]) -> dict[str, tuple[int, ...]]:
        """Shapes of inputs and outputs at the shape.

        Raises:
            BackendError: the engine does not know one.
        """
        shapes = {name: tuple(self._context.get_tensor_shape(name)) for name in names}
        unknown = [name for name, sides in shapes.items() if min(sides, default=-1) < 0]  # as the library says it
        if unknown:
            raise BackendError(f"the engine does not know the shape of {', '.join(unknown)}; build it again")
        return shapes

    def bind(self, activations: Block, tensors: Mapping[str, Block]) -> None:
        """Take memory for activations, inputs and outputs.

        Raises:
            BackendError: the engine refuses an address.
        """
        self._context.set_device_memory(activations.address, activations.size)
        for name, block in tensors.items():
            if not self._context.set_tensor_address(name, block.address):
                raise BackendError(f"the engine refuses the memory of {name}; the library printed the reason above")

    def run(self) -> bool:
        """Give a run to the stream; False if the library could not."""
        return bool(self._context.execute_async_v3(int(self._stream.handle)))

    def capturable(self) -> bool:
        """True if the library allows a capture of the next run."""
        ask = getattr(self._context, "is_stream_capturable", None)
        return ask is None or bool(ask(int(self._stream.handle)))

    def close(self) -> None:
        """Release the context; its stream must be idle."""
        self._context = None
