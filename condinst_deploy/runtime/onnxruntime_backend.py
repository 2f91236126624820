"""Backend `onnxruntime`: an exported file, on a CPU or through the CUDA provider."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from condinst_deploy.contract import INPUTS, MANIFEST_KEY, OUTPUTS, ModelManifest, NetworkInputs, NetworkOutputs
from condinst_deploy.contract.artifacts import ONNX, check_there
from condinst_deploy.errors import ArtifactError, BackendError, ConfigError
from condinst_deploy.runtime.backend import Backend
from condinst_deploy.runtime.cores import usable_cores
from condinst_deploy.runtime.devices import driver_present, parsed_device
from condinst_deploy.support.versions import installed_versions

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


@dataclass(frozen=True)
class CpuThreads:
    """Threads that compute one batch on a CPU."""

    count: int | None = None  # None: `usable_cores`, one for each physical core that this process may use
    spin: bool = True  # wait busily for the next operator: faster alone, slower where others want the same cores

    def __post_init__(self) -> None:
        """Check the number.

        Raises:
            ConfigError: it is not at least 1.
        """
        if self.count is not None and self.count < 1:
            raise ConfigError(f"the number of threads is {self.count}; expected at least 1, or None for all cores")


class OnnxRuntimeBackend(Backend):
    """Runs an exported ONNX file; the provider asked for is the one that runs, or loading fails."""

    name = "onnxruntime"

    def __init__(self, session: Any, manifest: ModelManifest, device: str) -> None:
        self._session = session
        self.manifest = manifest
        self.device = device

    @classmethod
    def load(cls, path: Path, device: str = "auto", threads: CpuThreads | None = None) -> Self:
        """Load an exported file and check that it is one of ours."""
        check_there(path, ONNX)
        try:
            content = path.read_bytes()
        except OSError as e:
            raise ArtifactError(f"{path} cannot be read ({e.strerror})") from e
        return cls.from_bytes(content, str(path), device, threads)

    @classmethod
    def from_bytes(cls, content: bytes, name: str, device: str = "auto", threads: CpuThreads | None = None) -> Self:
        """Load a serialised file; `name` is what messages call it."""
        chosen = parsed_device(device, gpu_usable=_gpu_usable())
        session = _session(content, name, chosen.kind, chosen.index, threads)
        manifest = _manifest(session, name)
        return cls(session, manifest, str(chosen))

    def forward(self, inputs: NetworkInputs) -> NetworkOutputs:
        """Run the network on one batch."""
        if self._session is None:
            raise BackendError("this model was closed; load it again")
        feed = dict(zip(INPUTS, inputs, strict=True))
        return NetworkOutputs(*self._session.run(list(OUTPUTS), feed))

    def close(self) -> None:
        """Release the session and its memory."""
        self._session = None


def _session(content: bytes, name: str, kind: str, index: int, threads: CpuThreads | None = None) -> Any:
    _refuse_two_runtimes()
    try:
        import onnxruntime
    except ImportError as e:
        raise BackendError("ONNX Runtime is not installed: pip install onnxruntime-gpu (it serves CPUs too)") from e
    if kind == "cuda":
        onnxruntime.preload_dlls()  # finds the CUDA libraries that PyTorch brought
    wanted = PROVIDERS[kind]
    provider: Any = (wanted, {"device_id": index, "use_tf32": 0}) if kind == "cuda" else wanted
    try:
        session = onnxruntime.InferenceSession(content, _options(threads or CpuThreads()), providers=[provider])
    except Exception as e:  # the module's exceptions have no common base below Exception
        raise ArtifactError(
            f"{name} cannot be loaded by ONNX Runtime ({str(e).splitlines()[0][:200]});"
            " it may be truncated or not an ONNX file: export the model again"
        ) from e
    if wanted not in session.get_providers():
        raise BackendError(
            f"{wanted} was asked for, but ONNX Runtime runs {name} on {', '.join(session.get_providers())};"
            " install onnxruntime-gpu and its CUDA libraries, or use device='cpu'"
        )
    return session


def _gpu_usable() -> bool:
    """True if NVIDIA's driver is loaded and this build of ONNX Runtime has the CUDA provider."""
    if not driver_present():
        return False
    try:
        import onnxruntime
    except ImportError:
        return False  # loading says what is missing
    return PROVIDERS["cuda"] in onnxruntime.get_available_providers()


def _options(threads: CpuThreads) -> Any:
    """What differs from ONNX Runtime's defaults; docs/architecture.md has the others that were measured."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors; a provider's fall-back is checked below
    # its own default counts the machine's physical cores, those too that taskset or a container's quota leaves out
    options.intra_op_num_threads = threads.count or usable_cores()
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(threads.spin)))
    return options


def _manifest(session: Any, name: str) -> ModelManifest:
    entry = session.get_modelmeta().custom_metadata_map.get(MANIFEST_KEY)
    if entry is None:
        raise ArtifactError(
            f"{name} is an ONNX file without this toolkit's manifest; write it with condinst-export,"
            " which records class names, preprocessing and thresholds"
        )
    found = (tuple(i.name for i in session.get_inputs()), tuple(o.name for o in session.get_outputs()))
    if found != (INPUTS, OUTPUTS):
        raise ArtifactError(f"{name} has inputs and outputs {found}; expected {(INPUTS, OUTPUTS)}: export it again")
    try:
        return ModelManifest.from_json(entry)
    except ArtifactError as e:
        raise ArtifactError(f"{name}: {e}") from e


def _refuse_two_runtimes() -> None:
    """`onnxruntime` and `onnxruntime-gpu` share a folder: with both, which one runs is an accident."""
    versions = [f"{name} {found}" for name, found in installed_versions(("onnxruntime", "onnxruntime-gpu")).items()]
    if len(versions) < 2:
        return
    raise BackendError(
        f"both {versions[0]} and {versions[1]} are installed and overwrite each other's files;"
        " pip uninstall both, then pip install onnxruntime-gpu"
    )
