"""One interface of the two builders: TensorRT for servers; TensorRT for RTX for workstations, without a GPU too."""

from dataclasses import dataclass
from importlib import import_module
from typing import Any, get_args

from condinst_deploy.contract.engine_manifest import MODULES, Builder
from condinst_deploy.errors import BackendError, ConfigError
from condinst_deploy.support.extras import install_command

INSTALL: dict[Builder, str] = {
    "tensorrt": f"{install_command('tensorrt')};"
    " it downloads from NVIDIA's index and builds on the GPU that the engine is for",
    "rtx": f"{install_command('rtx')}; it builds without a GPU",
}


@dataclass(frozen=True)
class BuilderLibrary:
    """A builder that is installed, and what it can do."""

    name: Builder
    trt: Any  # the module; both have TensorRT 11's names, and 10's where the two agree

    @property
    def version(self) -> str:
        """Return the library's version."""
        return str(self.trt.__version__)

    @property
    def builds_ahead(self) -> bool:
        """Return whether it builds for absent GPUs, named by compute capability."""
        return hasattr(self.trt, "ComputeCapability")

    @property
    def targets(self) -> tuple[str, ...]:
        """Compute capabilities that it builds for ahead of time."""
        if not self.builds_ahead:
            return ()
        names = self.trt.ComputeCapability.__members__
        return tuple(sorted((n.removeprefix("SM") for n in names if n.startswith("SM")), key=int))

    @property
    def has_timing_cache(self) -> bool:
        """Return whether a timing cache has an effect: calls of it are no-ops in TensorRT for RTX."""
        return self.name == "tensorrt"

    @property
    def has_compatibility(self) -> bool:
        """Return whether engines can be built for later GPUs and versions."""
        return self.name == "tensorrt"

    @property
    def has_plugins(self) -> bool:
        """Return whether engines can contain this toolkit's kernels."""
        return self.name == "tensorrt"


def load_builder_library(name: str | None = None) -> BuilderLibrary:
    """Import a builder; None: `tensorrt` where it imports, else `rtx`.

    Raises:
        BackendError: it is not installed.
        ConfigError: there is no such builder.
    """
    if name is None:
        for candidate in MODULES:
            module = _imported(candidate)
            if module is not None:
                return BuilderLibrary(candidate, module)
        lines = "; or ".join(f"{builder}: {command}" for builder, command in INSTALL.items())
        raise BackendError(f"no TensorRT is installed. {lines}")
    if name not in MODULES:
        raise ConfigError(f"the flavour is {name!r}; expected {' or '.join(get_args(Builder))}")
    chosen: Builder = "tensorrt" if name == "tensorrt" else "rtx"
    module = _imported(chosen)
    if module is None:
        raise BackendError(f"the flavour {chosen} is not installed: {INSTALL[chosen]}")
    return BuilderLibrary(chosen, module)


def _imported(name: Builder) -> Any:
    """The module, or None if it, or a library that it needs, is missing."""
    try:
        module = import_module(MODULES[name])
    except (ImportError, OSError):
        return None
    # packages of type stubs leave a folder of that name, which imports as a module of nothing
    return module if hasattr(module, "Builder") else None
