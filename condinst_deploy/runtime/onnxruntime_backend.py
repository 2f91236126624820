"""Backend `onnxruntime`: an exported file, on a CPU or through the CUDA provider."""

import warnings
from pathlib import Path
from typing import Any, Self

from condinst_deploy.contract import INPUTS, MANIFEST_KEY, OUTPUTS, ModelManifest, NetworkOutputs
from condinst_deploy.contract.artifacts import ONNX, check_there
from condinst_deploy.errors import ArtifactError, BackendError, DeviceError
from condinst_deploy.runtime.backend import Backend
from condinst_deploy.runtime.cores import CpuThreads, usable_cores
from condinst_deploy.runtime.cpu_features import OVERFLOW_REMARK, products_may_overflow
from condinst_deploy.runtime.devices import Device, driver_present, parsed_device
from condinst_deploy.runtime.onnxruntime_session import (
    EXTERNAL_DATA_FOLDER,
    check_names,
    check_static_shape,
    run_session,
)
from condinst_deploy.runtime.preprocessing.types import Inputs
from condinst_deploy.shown_text import first_line
from condinst_deploy.support.onnx_runtime import onnx_runtime
from condinst_deploy.support.versions import installed_versions

AVOID_OVERFLOW = "session.x64quantprecision"
"""Setting of a session: weights as uint8 instead of int8. Slower, and without the overflow of CPUs that lack VNNI."""

NO_FOLDER = Path("/dev/null/no folder")

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


class OnnxRuntimeBackend(Backend):
    """Runs an exported ONNX file. Loading fails if ONNX Runtime does not run it on the device that was asked for."""

    name = "onnxruntime"

    def __init__(self, session: Any, manifest: ModelManifest, device: str, file: str = "the model") -> None:
        self._session, self._file = session, file
        self.manifest = manifest
        self.device = device

    @classmethod
    def load(cls, path: Path, device: str = "auto", threads: CpuThreads | None = None) -> Self:
        """Load an exported file and check its manifest."""
        check_there(path, ONNX)
        try:
            content = path.read_bytes()
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
        session = opened_session(content, name, chosen, threads or CpuThreads(), folder)
        manifest = _checked_manifest(session, name)
        if manifest.quantization is not None and chosen.kind == "cpu" and products_may_overflow():
            warnings.warn(f"{name}: {OVERFLOW_REMARK}", stacklevel=2)
        return cls(session, manifest, str(chosen), name)

    def forward(self, inputs: Inputs) -> NetworkOutputs:
        """Run the network on one batch."""
        if self._session is None:
            raise BackendError("this model was closed; load it again")
        feed = dict(zip(INPUTS, inputs.on_host(), strict=True))
        return NetworkOutputs(*run_session(self._session, OUTPUTS, feed, self._file))

    def close(self) -> None:
        """Release the session and its memory."""
        self._session = None


def opened_session(content: bytes, name: str, device: Device, threads: CpuThreads, folder: Path | None) -> Any:
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
        raise BackendError("ONNX Runtime is not installed: pip install onnxruntime-gpu (it serves CPUs too)") from e
    if kind == "cuda":
        onnxruntime.preload_dlls()  # finds the CUDA libraries that PyTorch brought
    wanted = PROVIDERS[kind]
    provider: Any = (wanted, {"device_id": device.index or 0, "use_tf32": 0}) if kind == "cuda" else wanted
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
    options.log_severity_level = 3  # errors; `opened_session` checks whether the provider runs
    # ONNX Runtime's default counts all physical cores, including cores that taskset or a container's quota excludes
    options.intra_op_num_threads = threads.count or usable_cores()
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(threads.spin)))
    options.add_session_config_entry(AVOID_OVERFLOW, str(int(products_may_overflow())))
    # without a folder of its own a model has no weights elsewhere: a path that cannot exist
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
        " pip uninstall both, then pip install onnxruntime-gpu"
    )
