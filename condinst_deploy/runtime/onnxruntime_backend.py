"""Backend `onnxruntime`: an exported file, on a CPU or through the CUDA provider."""

import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from condinst_deploy.contract import (
    INPUTS,
    MANIFEST_KEY,
    OUTPUTS,
    ImageGeometry,
    InstanceDetections,
    ModelManifest,
    NetworkOutputs,
)
from condinst_deploy.contract.artifacts import ONNX, check_there
from condinst_deploy.errors import ArtifactError, BackendError, DeviceError
from condinst_deploy.runtime.backend import Backend, Outputs, closed_error
from condinst_deploy.runtime.cores import CpuThreads, usable_cores
from condinst_deploy.runtime.cpu_features import OVERFLOW_REMARK, products_may_overflow
from condinst_deploy.runtime.devices import Device, driver_present, parsed_device
from condinst_deploy.runtime.onnxruntime_session import (
    EXTERNAL_DATA_FOLDER,
    check_names,
    check_static_shape,
    run_session,
)
from condinst_deploy.runtime.postprocess import ResultFilter
from condinst_deploy.runtime.preprocessing.types import Inputs
from condinst_deploy.shown_text import first_line
from condinst_deploy.support.extras import install_choice, install_command
from condinst_deploy.support.input_files import read_file
from condinst_deploy.support.onnx_runtime import onnx_runtime
from condinst_deploy.support.versions import installed_versions

if TYPE_CHECKING:  # imported where a session runs on a GPU
    from condinst_deploy.runtime.onnxruntime_cuda import CudaRuns, GpuPlace

AVOID_OVERFLOW = "session.x64quantprecision"
"""Setting of a session: weights as uint8 instead of int8. Slower, and without the overflow of CPUs that lack VNNI."""

NO_FOLDER = Path("/dev/null/no folder")

THROUGH_THE_HOST = (
    f"cuda-bindings is not installed, so images are resized and masks are made on the host: {install_command('gpu')}"
)

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


class OnnxRuntimeBackend(Backend):
    """Runs an exported ONNX file. Loading fails if ONNX Runtime does not run it on the device that was asked for.

    On a GPU with cuda-bindings, inputs and outputs stay on the GPU, in the form that engines have, too.
    """

    name = "onnxruntime"

    def __init__(
        self,
        session: Any,
        manifest: ModelManifest,
        device: str,
        file: str = "the model",
        on_gpu: "CudaRuns | None" = None,
    ) -> None:
        """`on_gpu`: the runs of the session on a GPU; None: inputs and outputs are on the host."""
        self._session, self._file, self._on_gpu = session, file, on_gpu
        self.manifest = manifest
        self.device = device
        if on_gpu is not None:
            self.input_writer = on_gpu.uploads.writer
        elif device != "cpu":
            self.note = THROUGH_THE_HOST

    @classmethod
    def load(cls, path: Path, device: str = "auto", threads: CpuThreads | None = None) -> Self:
        """Load an exported file and check its manifest."""
        check_there(path, ONNX)
        try:
            content = read_file(path)
        except OSError as e:
            raise ArtifactError(f"{path} cannot be read ({e.strerror})") from e
        return cls._from_content(content, str(path), device, threads, path.absolute().parent)

    @classmethod
    def from_bytes(cls, content: bytes, name: str, device: str = "auto", threads: CpuThreads | None = None) -> Self:
        """Load a serialised file whose weights are all in it; `name` is what messages call it."""
        return cls._from_content(content, name, device, threads, None)

    @classmethod
    def _from_content(
        cls, content: bytes, name: str, device: str, threads: CpuThreads | None, folder: Path | None
    ) -> Self:
        """Load a file; weights that are not in it are read from `folder` alone."""
        chosen = parsed_device(device, gpu_usable=_gpu_usable())
        if chosen.kind == "cuda" and not driver_present():
            raise DeviceError(
                f"device {device!r} was asked for, and no NVIDIA driver is loaded on this machine; use device='cpu'"
            )
        with ExitStack() as undone:
            place = _gpu_place(chosen)
            if place is not None:
                undone.callback(place.close)
            session = opened_session(content, name, chosen, threads or CpuThreads(), folder, place)
            manifest = _checked_manifest(session, name)
            on_gpu = _runs_on(place, session, manifest, name)
            undone.pop_all()
        if manifest.quantization is not None and chosen.kind == "cpu" and products_may_overflow():
            warnings.warn(f"{name}: {OVERFLOW_REMARK}", stacklevel=2)
        return cls(session, manifest, str(chosen), name, on_gpu)

    def collate(self, parts: Sequence[Inputs]) -> Inputs:
        """Put prepared images together; on a GPU they start to be copied there."""
        return super().collate(parts) if self._on_gpu is None else self._on_gpu.collate(parts, self.static_batch)

    def forward(self, inputs: Inputs) -> Outputs:
        """Run the network on one batch; on a GPU the outputs stay there."""
        if self._session is None:
            raise closed_error()
        if self._on_gpu is not None:
            return self._on_gpu.run(inputs)
        feed = dict(zip(INPUTS, inputs.on_host(), strict=True))
        return NetworkOutputs(*run_session(self._session, OUTPUTS, feed, self._file))

    def postprocess(
        self, outputs: Outputs, geometries: Sequence[ImageGeometry], result_filter: ResultFilter | None = None
    ) -> list[InstanceDetections]:
        """Turn outputs of `forward` into detections in original pixels."""
        if self._on_gpu is None or isinstance(outputs, NetworkOutputs):
            return super().postprocess(outputs, geometries, result_filter)
        return self._on_gpu.detections(outputs, geometries, result_filter or ResultFilter())

    def synchronize(self) -> None:
        """Wait until a GPU has finished the uploads and all runs."""
        if self._on_gpu is not None:
            self._on_gpu.synchronize()

    def check_health(self) -> None:
        """Check that a GPU still works; see `Backend.check_health`."""
        if self._on_gpu is not None:
            self._on_gpu.check_health()

    def close(self) -> None:
        """Release the session and its memory."""
        self._session = None
        if self._on_gpu is not None:
            self._on_gpu.close()


def opened_session(
    content: bytes,
    name: str,
    device: Device,
    threads: CpuThreads,
    folder: Path | None,
    place: "GpuPlace | None" = None,
) -> Any:
    """Open a session on the device that was asked for; weights that are not in `content` are read from `folder` alone.

    Raises:
        ArtifactError: ONNX Runtime cannot load the file.
        BackendError: ONNX Runtime is not installed, or runs the file on another device.
    """
    kind = device.kind
    _refuse_two_runtimes()
    try:
        onnxruntime = onnx_runtime()
    except ImportError as e:
        raise BackendError(f"ONNX Runtime is not installed: {install_choice('cpu')}") from e
    if kind == "cuda":
        onnxruntime.preload_dlls()  # finds the CUDA libraries that PyTorch brought
    wanted = PROVIDERS[kind]
    stream = None if place is None else int(place.stream.handle)
    provider: Any = (wanted, cuda_options(device.index, stream)) if kind == "cuda" else wanted
    try:
        session = onnxruntime.InferenceSession(content, session_options(threads, folder), providers=[provider])
    except Exception as e:  # the module's exceptions have no common base below Exception
        raise ArtifactError(
            f"{name} cannot be loaded by ONNX Runtime ({first_line(e, 300)});"
            " it may be truncated or not an ONNX file: export the model again"
        ) from e
    if wanted not in session.get_providers():
        raise DeviceError(
            f"{wanted} was asked for, but ONNX Runtime runs {name} on {', '.join(session.get_providers())};"
            " install onnxruntime-gpu and its CUDA libraries, or use device='cpu'"
        )
    return session


def cuda_options(index: int, stream: int | None) -> dict[str, str]:
    """Return the options of the CUDA provider that differ from its defaults.

    Args:
        index: number of the GPU.
        stream: address of the stream that the session works on; None: one of the provider's.
    """
    options = {"device_id": str(index), "use_tf32": "0"}
    # the default times all algorithms of a convolution for every new shape of the input, and images have many
    options["cudnn_conv_algo_search"] = "HEURISTIC"
    return options if stream is None else options | {"user_compute_stream": str(stream)}


def _gpu_place(device: Device) -> "GpuPlace | None":
    """Return where a session runs; None if its inputs and outputs are on the host."""
    if device.kind == "cpu":
        return None
    from condinst_deploy.runtime.cuda.driver import bindings_present
    from condinst_deploy.runtime.onnxruntime_cuda import GpuPlace

    return GpuPlace.of(device.index) if bindings_present() else None


def _runs_on(place: "GpuPlace | None", session: Any, manifest: ModelManifest, name: str) -> "CudaRuns | None":
    if place is None:
        return None
    from condinst_deploy.runtime.onnxruntime_cuda import CudaRuns

    return CudaRuns(place, session, manifest, name)


def _gpu_usable() -> bool:
    """True if NVIDIA's driver is loaded and this build of ONNX Runtime has the CUDA provider."""
    if not driver_present():
        return False
    try:
        onnxruntime = onnx_runtime()
    except ImportError:
        return False  # loading says what is missing
    return PROVIDERS["cuda"] in onnxruntime.get_available_providers()


def session_options(threads: CpuThreads, folder: Path | None) -> Any:
    """Return the options that differ from ONNX Runtime's defaults."""
    onnxruntime = onnx_runtime()
    options = onnxruntime.SessionOptions()
    # errors are raised, too, and the log quotes names from files; `opened_session` checks whether the provider runs
    options.log_severity_level = 4
    # ONNX Runtime's default counts all physical cores, including cores that taskset or a container's quota excludes
    options.intra_op_num_threads = threads.count or usable_cores()
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(threads.spin)))
    options.add_session_config_entry(AVOID_OVERFLOW, str(int(products_may_overflow())))
    # a model that is not in a folder has no weights elsewhere: a path that cannot exist
    options.add_session_config_entry(EXTERNAL_DATA_FOLDER, str(folder or NO_FOLDER))
    return options


def _checked_manifest(session: Any, name: str) -> ModelManifest:
    """The manifest of a graph that keeps the contract."""
    try:
        manifest = _manifest(session, name)
        check_static_shape(session, manifest, name)
    except UnicodeDecodeError as e:  # ONNX Runtime hands out the texts of a file without looking at them
        raise ArtifactError(
            f"{name} has a name or an entry of the manifest that is not UTF-8 ({e}); export the model again"
        ) from e
    return manifest


def _manifest(session: Any, name: str) -> ModelManifest:
    entry = session.get_modelmeta().custom_metadata_map.get(MANIFEST_KEY)
    if entry is None:
        raise ArtifactError(
            f"{name} is an ONNX file without this toolkit's manifest; write it with condinst-export,"
            " which records class names, preprocessing and thresholds"
        )
    check_names(session, name)
    try:
        return ModelManifest.from_json(entry)
    except ArtifactError as e:
        raise ArtifactError(f"{name}: {e}") from e


def _refuse_two_runtimes() -> None:
    """Refuse `onnxruntime` beside `onnxruntime-gpu`: they share a folder, so it is undefined which one runs."""
    versions = [f"{name} {found}" for name, found in installed_versions(("onnxruntime", "onnxruntime-gpu")).items()]
    if len(versions) < 2:
        return
    raise BackendError(
        f"both {versions[0]} and {versions[1]} are installed and overwrite each other's files;"
        f" pip uninstall both, then {install_choice('cpu')}"
    )
