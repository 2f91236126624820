"""JSON that says which version of a format it is in."""

import json
from typing import Any

from condinst_deploy.errors import ArtifactError


def versioned_values(text: str, version: int, remedy: str) -> dict[str, Any]:
    """The entries of a manifest in JSON.

    Args:
        text: the JSON.
        version: that this release reads.
        remedy: what the user is told to do where it cannot be read.

    Raises:
        ArtifactError: it is not JSON, or of another version.
    """
    try:
        values = json.loads(text)
    except json.JSONDecodeError as e:
        raise ArtifactError(f"the manifest is not JSON ({e}); {remedy}") from e
    return checked_version(values, version, remedy)


def checked_version(values: Any, version: int, remedy: str) -> dict[str, Any]:
    """The entries, where they are some and of the version (see `versioned_values`)."""
    found = values.get("version") if isinstance(values, dict) else None
    if not isinstance(values, dict) or found != version:
        raise ArtifactError(f"the manifest has version {found!r}; this release reads {version}: {remedy}")
    return values
