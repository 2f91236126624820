"""Versions of this package and of installed libraries, by the name that pip knows."""

from collections.abc import Iterable
from pathlib import Path

__version__ = "0.2.0"
"""Of this package."""

PACKAGE = Path(__file__).parents[1]
"""Folder of this package."""

RESULT_LIBRARIES = (
    "condinst-deploy",
    "numpy",
    "onnxruntime",
    "onnxruntime-gpu",
    "pillow",
    "simplejpeg",
    "tensorrt",
    "tensorrt-rtx",
    "torch",
    "torchvision",
)
"""Libraries whose versions detections and their speed may depend on."""


def version_of(library: str) -> str | None:
    """Version of one library; None if it is not installed."""
    from importlib.metadata import PackageNotFoundError, version  # takes 27 ms, and few commands need it

    try:
        return version(library)
    except PackageNotFoundError:
        return None


def installed_versions(libraries: Iterable[str]) -> dict[str, str]:
    """Library -> version, for those libraries that are installed."""
    return {name: found for name in libraries if (found := version_of(name)) is not None}
