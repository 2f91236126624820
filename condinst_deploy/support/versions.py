"""Versions of installed libraries, by the name that pip knows."""

from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version


def version_of(library: str) -> str | None:
    """Version of one library; None if it is not installed."""
    try:
        return version(library)
    except PackageNotFoundError:
        return None


def installed_versions(libraries: Iterable[str]) -> dict[str, str]:
    """Library -> version, for those libraries that are installed."""
    return {name: found for name in libraries if (found := version_of(name)) is not None}
