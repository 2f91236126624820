"""Settings of a model repository, and of the code inside the server."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from condinst_deploy.contract import ModelManifest
from condinst_deploy.errors import ArtifactError, ConfigError
from condinst_deploy.runtime.canvases import canvases_from_json
from condinst_deploy.runtime.cores import CpuThreads, usable_cores
from condinst_deploy.serving.triton.limits import Limits
from condinst_deploy.shown_text import shown_value
from condinst_deploy.support.json_text import json_text
from condinst_deploy.support.option_types import check_types

Layout = Literal["single", "ensemble"]
"""single: one model with `Predictor` inside. ensemble: the network is a separate model that the outer one asks."""

NetworkBackend = Literal["python", "onnxruntime", "tensorrt"]
"""Which backend of the server runs the network in the layout of two models."""

SETTINGS_FILE = "condinst.json"
LARGEST_BATCH = 64
LONGEST_DELAY_MS = 1000.0


@dataclass(frozen=True)
class RepositoryOptions:
    """Options of the repository that `condinst-triton-repo` writes."""

    layout: Layout = "single"
    device: Literal["cpu", "cuda"] = "cpu"
    instances: int = 1  # of the model, on every GPU or on the CPU
    max_batch: int = 8  # images that one run of the network takes
    delay_ms: float = 5.0  # how long a request waits for others of its padded shape
    network_backend: NetworkBackend = "python"  # layout `ensemble` only
    cuda_graphs: bool = False  # of the server's TensorRT backend, for the shapes that the engine is tuned for
    canvases: Sequence[tuple[int, int]] | None = None  # padded sizes, as of `PredictorOptions`
    version: int = 1  # number of the version's folder
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ConfigError: a value has a wrong type or cannot be used.
        """
        check_types(self)
        for name, allowed in (("layout", get_args(Layout)), ("network_backend", get_args(NetworkBackend))):
            if getattr(self, name) not in allowed:
                raise ConfigError(f"{name} is {getattr(self, name)!r}; expected one of {', '.join(allowed)}")
        if self.device not in ("cpu", "cuda"):
            raise ConfigError(f"device is {self.device!r}; expected cpu or cuda")
        if self.cuda_graphs and (self.layout, self.network_backend) != ("ensemble", "tensorrt"):
            raise ConfigError(
                "cuda_graphs are those of the server's TensorRT backend: choose layout ensemble and network backend"
                " tensorrt; with the layout single, engines capture their own"
            )
        ranges = {"instances": 64, "max_batch": LARGEST_BATCH, "version": 10**9}
        for name, largest in ranges.items():
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= largest:
                raise ConfigError(f"{name} is {shown_value(value)}; expected a whole number from 1 to {largest}")
        if not 0 <= self.delay_ms <= LONGEST_DELAY_MS:
            raise ConfigError(
                f"delay_ms is {shown_value(self.delay_ms)}; expected 0 to {LONGEST_DELAY_MS:g} milliseconds"
            )


@dataclass(frozen=True)
class ServerSettings:
    """Settings that the Python models inside the server read from `condinst.json` beside `model.py`."""

    manifest: ModelManifest
    model: str  # name of the model file beside it; empty if another model of the server has the network
    device: str
    max_batch: int
    instances: int = 1  # that share the cores, where the network runs on the CPU
    canvases: Sequence[tuple[int, int]] | None = None
    limits: Limits = field(default_factory=Limits)

    @property
    def threads(self) -> CpuThreads:
        """Of one instance on the CPU: its share of the cores. They sleep between runs and leave the cores to others."""
        return CpuThreads(max(1, usable_cores() // self.instances), spin=False)

    def to_json(self) -> str:
        """Indented JSON."""
        return json_text(asdict(self), "the settings", indent=2) + "\n"

    @classmethod
    def read(cls, folder: Path) -> "ServerSettings":
        """Read what `to_json` wrote.

        Raises:
            ArtifactError: it is missing or cannot be used.
        """
        path = folder / SETTINGS_FILE
        try:
            values: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            return cls(
                manifest=ModelManifest.from_dict(values["manifest"]),
                model=Path(values["model"]).name,
                device=str(values["device"]),
                max_batch=int(values["max_batch"]),
                instances=max(1, int(values["instances"])),
                canvases=canvases_from_json(values.get("canvases")),
                limits=Limits(**values["limits"]),
            )
        except (OSError, ValueError, KeyError, TypeError, ArtifactError, ConfigError) as e:
            raise ArtifactError(f"{path} cannot be used ({e}); write it again with condinst-triton-repo") from e
