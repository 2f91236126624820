"""A session of ONNX Runtime: its graph is compared with the contract, and its runs can be stopped."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from condinst_deploy.contract import INPUTS, OUTPUTS, ModelManifest
from condinst_deploy.errors import ArtifactError, BackendError
from condinst_deploy.shown_text import shown, shown_value
from condinst_deploy.support.onnx_runtime import onnx_runtime
from condinst_deploy.support.signals import Stopped, cancellable, received

EXTERNAL_DATA_FOLDER = "session.model_external_initializers_file_folder_path"
"""Setting of a session: where weights lie that are not in the model's file. Its default is the current folder."""

DO_NOT_WAIT = "disable_synchronize_execution_providers"
"""Setting of a run: return without waiting for the GPU."""

FLOATS = ("tensor(float)", "tensor(float16)", "tensor(bfloat16)")

CONTRACT: dict[str, tuple[tuple[str, ...], int]] = {
    "images": (("tensor(uint8)",), 4),
    "image_sizes": (("tensor(int32)",), 2),
    "num_detections": (("tensor(int32)",), 1),
    "boxes": (FLOATS[:1], 3),
    "scores": (FLOATS[:1], 2),
    "labels": (("tensor(int32)",), 2),
    "mask_logits": (FLOATS[:2], 4),
}
"""Types and number of dimensions of every input and output (`condinst_deploy.contract.tensors`)."""


def check_names(session: Any, name: str) -> None:
    """Check that the graph has the contract's inputs and outputs, with their types and ranks; messages call it `name`.

    Raises:
        ArtifactError: it has not.
    """
    values = (*session.get_inputs(), *session.get_outputs())
    found = tuple(value.name for value in values)
    if found != (*INPUTS, *OUTPUTS):
        raise ArtifactError(
            f"{name} has the inputs and outputs {shown(', '.join(found), 300)};"
            f" expected {', '.join((*INPUTS, *OUTPUTS))}: export it again"
        )
    for value in values:
        types, rank = CONTRACT[value.name]
        # ONNX Runtime gives no dimensions where it does not know them; the run then shows them
        if value.type not in types or len(value.shape or [None] * rank) != rank:
            raise ArtifactError(
                f"{name}: {value.name} is {value.type} with {len(value.shape or ())} dimensions; expected"
                f" {' or '.join(types)} with {rank}: export it again"
            )


def check_static_shape(session: Any, manifest: ModelManifest, name: str) -> None:
    """Check that the manifest's fixed shape is the graph's: a number decides how much memory images take.

    Raises:
        ArtifactError: it is another, or one of the two has none.
    """
    batch, channels, height, width = session.get_inputs()[0].shape or ["batch", 3, "height", "width"]
    sides = (batch, height, width)
    of_graph = sides if all(isinstance(side, int) for side in sides) else None
    if channels not in (3, None) and not isinstance(channels, str):
        raise ArtifactError(f"{name} takes images of {channels} channels; expected 3: export it again")
    if manifest.static_shape != of_graph:
        raise ArtifactError(
            f"{name}: the manifest has static_shape {shown_value(manifest.static_shape)} and the graph takes"
            f" {of_graph or 'images of any size'}; expected the same: export it again"
        )


def run_session(session: Any, outputs: Sequence[str], feed: Mapping[str, Any], name: str) -> list[Any]:
    """Run a network, so that a signal or `signals.cancel` stops it between two nodes.

    Raises:
        BackendError: ONNX Runtime refuses the inputs, or fails.
        Stopped: it was stopped.
    """
    results: list[Any] = _stoppable(lambda options: session.run(list(outputs), dict(feed), options), name)
    return results


def run_bound(session: Any, binding: Any, name: str) -> None:
    """Run a network on bound inputs and outputs; the GPU may still work on the outputs. See `run_session`."""

    def run(options: Any) -> None:
        options.add_run_config_entry(DO_NOT_WAIT, "1")
        session.run_with_iobinding(binding, options)

    _stoppable(run, name)


def _stoppable(run: Callable[[Any], Any], name: str) -> Any:
    options = onnx_runtime().RunOptions()
    stopped = False

    def stop() -> None:
        nonlocal stopped
        stopped = options.terminate = True

    with cancellable(stop):
        try:
            results = run(options)
        except MemoryError:
            raise
        except Exception as e:  # the module's exceptions have no common base below Exception
            if stopped:
                raise Stopped(received() or Stopped().number) from e
            reason = (str(e).splitlines() or [type(e).__name__])[0]
            raise BackendError(
                f"ONNX Runtime cannot run {name} ({shown(reason, 300)}); export the model again,"
                " or try a smaller batch where memory is short"
            ) from e
    if stopped:  # after its last node
        raise Stopped(received() or Stopped().number)
    return results
