"""Optional libraries, and the extra that installs each; the message about a missing one has the pip command."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from condinst_deploy.errors import ConfigError

EXTRAS = {
    "fsspec": "urls",
    "faster_coco_eval": "eval",
    "jinja2": "eval",
    "matplotlib": "train",
    "onnx": "export",
    "onnx_graphsurgeon": "export",
    "onnx_ir": "export",
    "onnxruntime": "cpu",
    "onnxscript": "export",
    "pyarrow": "ray",
    "pycocotools": "eval",
    "ray": "ray",
    "supervision": "viz",
    "tensorboard": "train",
    "tensorrt": "tensorrt",
    "tensorrt_rtx": "rtx",
    "threadpoolctl": "eval",
    "torch": "torch",
    "torchvision": "torch",
    "triton": "torch",
    "tritonclient": "triton-client",
}
"""Name of a module -> extra. `cpu` stands for `gpu`, too, which brings ONNX Runtime's build for GPUs instead."""


INCLUDED = {
    "export": {"eval", "torch"},
    "rtx": {"eval", "export", "torch"},
    "train": {"eval", "torch"},
}
"""Extra -> those that it brings, too."""

_ALTERNATIVES = {
    "cpu": " (or condinst-deploy[gpu] for NVIDIA GPUs)",
    "rtx": " (or condinst-deploy[tensorrt] for full TensorRT)",
}
"""What can be installed instead of an extra."""


def install_command(extra: str, *packages: str) -> str:
    """The command that brings an extra, as every message names it, and further packages beside it."""
    return " ".join((f"pip install 'condinst-deploy[{extra}]'", *packages))


def install_choice(extra: str) -> str:
    """The command that brings an extra, and what can be installed instead of it."""
    return install_command(extra) + _ALTERNATIVES.get(extra, "")


def missing_library(error: ImportError, extra: str | None = None) -> str | None:
    """One line on a library that is not installed, or does not have a module of its own that is needed.

    Args:
        error: what an import raised.
        extra: one that brings all that the work needs; it is named where it brings this library.

    Returns:
        What is missing and the command that brings it; None if the module is not one of `EXTRAS`.
    """
    module = (error.name or "").partition(".")[0]
    own = EXTRAS.get(module)
    if own is None or not isinstance(error, ModuleNotFoundError):
        return None
    named = extra if extra is not None and own in INCLUDED.get(extra, ()) else own
    if error.name != module and _is_installed(module):
        return (
            f"this needs {error.name}, which the installed {module} does not have; it is damaged or of another version:"
            f" {install_command(named)} in a new environment"
        )
    return f"this needs {module}, which is not installed: {install_choice(named)}"


def _is_installed(module: str) -> bool:
    """Return whether a library is there. A folder that several libraries share, and none fills, is not one."""
    try:
        spec = find_spec(module)
    except ValueError:  # of a stand-in without a specification
        return True
    return spec is not None and spec.origin is not None


def resolved(module: str, name: str, homes: Mapping[str, str], extra: str | None = None) -> Any:
    """Return a name of a package's interface, for the package's `__getattr__`.

    Args:
        module: the package.
        name: that was asked for.
        homes: name -> module that has it.
        extra: as for `missing_library`.

    Raises:
        AttributeError: the package has no such name.
        ConfigError: a library that it needs is not installed.
    """
    if name not in homes:
        raise AttributeError(f"module {module!r} has no attribute {name!r}")
    with libraries_of(extra):
        return getattr(import_module(homes[name]), name)


@contextmanager
def libraries_of(extra: str | None = None) -> Iterator[None]:
    """Imports in the block raise a `ConfigError` of one line if a library is not installed.

    Args:
        extra: as for `missing_library`.
    """
    try:
        yield
    except ModuleNotFoundError as e:
        line = missing_library(e, extra)
        if line is None:
            raise
        raise ConfigError(line) from e
