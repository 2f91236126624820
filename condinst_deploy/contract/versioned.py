"""JSON manifests that name the version of their format."""

from typing import Any

from condinst_deploy.errors import ArtifactError
from condinst_deploy.shown_text import shown_value
from condinst_deploy.support.json_text import json_value


def versioned_values(text: str, version: int, remedy: str) -> dict[str, Any]:
    """The entries of a manifest in JSON.

    Args:
        text: the JSON.
        version: the version that this release reads.
        remedy: what the message tells the user to do if the manifest cannot be read.

    Raises:
        ArtifactError: the text is not JSON, or of another version.
    """
    try:
        values = json_value(text)
    except ValueError as e:
        raise ArtifactError(f"the manifest is not JSON that can be read ({e}); {remedy}") from e
    return checked_version(values, version, remedy)


def checked_version(values: Any, version: int, remedy: str) -> dict[str, Any]:
    """The entries, if they are a dictionary of the right version (see `versioned_values`)."""
    found = values.get("version") if isinstance(values, dict) else None
    if not isinstance(values, dict) or type(found) is not int or found != version:
        raise ArtifactError(f"the manifest has version {shown_value(found)}; this release reads {version}: {remedy}")
    return values
