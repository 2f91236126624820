"""The description of an engine, in a file beside it. The builder writes it, and the loader checks it.

The engine stays a plain plan, which `trtexec --loadEngine` reads; the manifest of `model.engine` is
`model.engine.json`.
"""

import platform
import sys
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal, get_args

from condinst_deploy.contract import ModelManifest
from condinst_deploy.contract.artifacts import ENGINE, check_there
from condinst_deploy.contract.engine_ranges import CheckedRanges
from condinst_deploy.contract.quantization import Quantization
from condinst_deploy.contract.versioned import versioned_values
from condinst_deploy.errors import ArtifactError, ConfigError
from condinst_deploy.shown_text import shown_value
from condinst_deploy.support.atomic_write import atomic_path
from condinst_deploy.support.digests import sha256_of_bytes
from condinst_deploy.support.extras import install_command
from condinst_deploy.support.input_files import read_file, read_text
from condinst_deploy.support.json_text import json_text
from condinst_deploy.support.validation import typed

Builder = Literal["tensorrt", "rtx"]
MODULES: dict[Builder, str] = {"tensorrt": "tensorrt", "rtx": "tensorrt_rtx"}
"""Python module of each builder's library, which also runs its engines."""
_PACKAGES: dict[Builder, str] = {"tensorrt": "tensorrt", "rtx": "tensorrt-rtx"}
"""Package that brings each module, as pip names it."""

Shape = tuple[int, ...]
ENGINE_MANIFEST_VERSION = 1

TYPED_NETWORK = "typed network"
ENGINE_INSPECTOR = "engine inspector"

AMPERE = 80
"""Lowest compute capability of hardware-compatible engines, wherever they were built (TensorRT's AMPERE_PLUS)."""


def install_hint(builder: Builder) -> str:
    """The command that brings what engines of a builder run with, without PyTorch."""
    return install_command("engine", _PACKAGES[builder])


@dataclass(frozen=True)
class EngineTensor:
    """One input or output of an engine."""

    name: str
    role: Literal["input", "output"]
    dtype: str  # as numpy names it
    shape: Shape  # -1 where it is dynamic


@dataclass(frozen=True)
class ShapeRange:
    """Shapes of one input that an optimization profile covers; `opt` is what it is tuned for."""

    min: Shape
    opt: Shape
    max: Shape

    def __post_init__(self) -> None:
        """Check that the three shapes have one rank.

        Raises:
            ArtifactError: they have not.
        """
        if not len(self.min) == len(self.opt) == len(self.max):
            raise ArtifactError(f"a profile has shapes of different ranks: {self.min}, {self.opt}, {self.max}")

    def covers(self, shape: Shape) -> bool:
        """Return whether a shape lies inside the range."""
        return len(shape) == len(self.min) and all(
            low <= n <= high for low, n, high in zip(self.min, shape, self.max, strict=True)
        )


EngineProfile = Mapping[str, ShapeRange]
"""One optimization profile: the range of each input."""


@dataclass(frozen=True)
class FoundPrecision:
    """Layers by the type of what they compute, and where that was read."""

    source: str  # TYPED_NETWORK: what the builder was bound to; ENGINE_INSPECTOR: what the engine has
    layers: Mapping[str, int]  # float32, float16 or bfloat16 -> number of layers

    def is_as_asked(self, precision: str, also: Collection[str] = ()) -> bool:
        """Return whether layers have the requested precision, and no layer has another half type.

        Args:
            precision: of the engine.
            also: types that the policy gives single nodes.
        """
        return precision in self.layers and self.layers.keys() <= {"float32", precision, *also}


@dataclass(frozen=True)
class EngineManifest:
    """Everything that is needed to run an engine, or to say why it cannot be run."""

    flavour: Builder  # the key in the file; the command line has --flavour, too
    library_version: str  # of the builder
    precision: str  # asked for: float32, float16 or bfloat16
    found: FoundPrecision
    targets: tuple[str, ...]  # compute capabilities, for example 86
    tensors: tuple[EngineTensor, ...]
    profiles: tuple[EngineProfile, ...]  # empty if all shapes are fixed
    model: ModelManifest
    onnx: str  # name of the file that it was built from
    onnx_sha256: str
    plan_sha256: str
    plan_bytes: int
    hardware_compatible: bool = False  # runs on every GPU of compute capability AMPERE and above
    version_compatible: bool = False  # also runs with later versions of the library
    refittable: bool = False
    weights_stripped: bool = False
    plugins: tuple[str, ...] = ()
    build_seconds: float = 0.0
    host: str = ""
    tools: Mapping[str, str] = field(default_factory=dict)
    quantization: Quantization | None = None  # of an INT8 or FP8 engine; `precision` is the type of its other layers
    ranges: CheckedRanges | None = None  # of a half engine; None: float32, or built before there was a check
    version: int = ENGINE_MANIFEST_VERSION

    def __post_init__(self) -> None:
        """Check what a loader relies on.

        Raises:
            ArtifactError: a field cannot be used.
        """
        if self.flavour not in get_args(Builder):
            raise ArtifactError(
                f"the engine's flavour is {shown_value(self.flavour)}; this release knows {get_args(Builder)}"
            )
        if not self.targets or not self.tensors:
            raise ArtifactError("the engine's manifest names no target or no tensor; build the engine again")

    def to_json(self) -> str:
        """Indented JSON, for people to read."""
        return json_text(asdict(self), "the engine's manifest", indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "EngineManifest":
        """Read and check what `to_json` wrote.

        Raises:
            ArtifactError: it is not a manifest of a version that this release reads.
        """
        values = versioned_values(text, ENGINE_MANIFEST_VERSION, "build the engine again")
        ModelManifest.from_dict(values.get("model"))  # has its own version
        try:
            return typed(values, cls)
        except ConfigError as e:
            raise ArtifactError(f"the manifest cannot be used ({e}); build the engine again") from e

    @property
    def is_as_asked(self) -> bool:
        """Return whether the layers have the types that precision and policy ask for."""
        also = {"bf16": "bfloat16", "fp16": "float16"}
        own = self.ranges.policy if self.ranges is not None else {}
        return self.found.is_as_asked(self.precision, [kind for level, kind in also.items() if level in own])

    @property
    def inputs(self) -> tuple[EngineTensor, ...]:
        """Input tensors, in order."""
        return tuple(tensor for tensor in self.tensors if tensor.role == "input")

    @property
    def outputs(self) -> tuple[EngineTensor, ...]:
        """Output tensors, in order."""
        return tuple(tensor for tensor in self.tensors if tensor.role == "output")

    def profile_for(self, shapes: Mapping[str, Shape]) -> int | None:
        """The first profile that covers the inputs' shapes; None: none does.

        Raises:
            ArtifactError: the engine has fixed shapes, and so no profiles.
        """
        if not self.profiles:
            raise ArtifactError("the engine has fixed shapes and no profiles")
        for i, profile in enumerate(self.profiles):
            if all(profile[name].covers(shape) for name, shape in shapes.items()):
                return i
        return None

    def check_loadable(self, builder: str, library_version: str, capability: str) -> None:
        """Refuse a machine that the engine was not built for, before the library does with an error code.

        Args:
            builder: of the library at hand.
            library_version: of that library.
            capability: compute capability of the GPU, for example 86.

        Raises:
            ArtifactError: builder, version or GPU differ.
        """
        if builder != self.flavour:
            raise ArtifactError(
                f"the engine is of the flavour {self.flavour} and the library at hand is {builder};"
                f" install the other ({install_hint(self.flavour)}) or build with --flavour {builder}"
            )
        if library_version != self.library_version and not self._runs_later(library_version):
            raise ArtifactError(
                f"the engine was built by version {self.library_version} and {library_version} is installed;"
                " install that version, or build the engine again with this one"
            )
        any_ampere = self.hardware_compatible and int(capability) >= AMPERE
        if capability not in self.targets and not any_ampere:
            raise ArtifactError(
                f"the engine is for GPUs of compute capability {', '.join(self.targets)} and this one has {capability};"
                " build the engine for it"
            )

    def _runs_later(self, installed: str) -> bool:
        return self.version_compatible and _numbers(installed) >= _numbers(self.library_version)


def manifest_path(engine: Path) -> Path:
    """Return the path of an engine's manifest."""
    return engine.with_name(f"{engine.name}.json")


def write_engine(path: Path, plan: bytes, manifest: EngineManifest) -> None:
    """Write plan and manifest, whole or not at all.

    Raises:
        OutputError: a file cannot be written.
    """
    # the manifest gets its name first: should the run end between the two, the hashes differ and loading says so
    with atomic_path(path) as engine:
        engine.write_bytes(plan)
        with atomic_path(manifest_path(path)) as sidecar:
            sidecar.write_text(manifest.to_json(), encoding="utf-8")


def read_manifest(engine: Path) -> EngineManifest:
    """The manifest beside an engine.

    Raises:
        ArtifactError: the engine or its manifest is missing or unusable.
    """
    check_there(engine, ENGINE)
    path = manifest_path(engine)
    try:
        text = read_text(path)
    except FileNotFoundError as e:
        raise ArtifactError(
            f"{engine} has no manifest: {path.name} must lie beside it; copy it along, or build the engine again"
        ) from e
    except (OSError, UnicodeDecodeError) as e:
        raise ArtifactError(f"{path} cannot be read ({e})") from e
    try:
        return EngineManifest.from_json(text)
    except ArtifactError as e:
        raise ArtifactError(f"{path}: {e}") from e


def read_engine(path: Path) -> tuple[bytes, EngineManifest]:
    """A plan and its manifest, checked to belong together.

    Raises:
        ArtifactError: one of the two is missing, unusable, or of another build.
    """
    manifest = read_manifest(path)
    try:
        plan = read_file(path)
    except OSError as e:
        raise ArtifactError(f"{path} cannot be read ({e.strerror})") from e
    if sha256_of_bytes(plan) != manifest.plan_sha256:
        raise ArtifactError(
            f"{path} ({len(plan)} bytes) is not the plan that {manifest_path(path).name} describes"
            f" ({manifest.plan_bytes} bytes): copy the two files together, or build the engine again"
        )
    return plan, manifest


def host() -> str:
    """The machine in a few words: an engine does not cross operating systems."""
    return f"{platform.system()} {platform.machine()}, Python {sys.version_info.major}.{sys.version_info.minor}"


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())
