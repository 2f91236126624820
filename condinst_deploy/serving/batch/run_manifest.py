"""The manifest of a run: what its rows depend on. Another run cannot write into the same folder."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from condinst_deploy.contract.versioned import versioned_values
from condinst_deploy.errors import ArtifactError, CondInstError, ConfigError
from condinst_deploy.serving.batch.batch_options import BatchOptions
from condinst_deploy.serving.batch.inputs import Fingerprint
from condinst_deploy.serving.batch.storage import PART_PREFIX, OutputFolder
from condinst_deploy.shown_text import shown, shown_value
from condinst_deploy.support.digests import sha256_of_bytes, sha256_of_text
from condinst_deploy.support.json_text import json_text
from condinst_deploy.support.remote_files import public_url
from condinst_deploy.support.versions import RESULT_LIBRARIES, installed_versions

FILE = "run.json"
VERSION = 1


@dataclass(frozen=True)
class RunManifest:
    """Everything that the rows of a run depend on, as JSON values."""

    version: int
    rows: int  # version of the row schema
    model: dict[str, str]  # file, sha256
    options: dict[str, Any]
    input: dict[str, Any]  # source, kind, images, sha256
    versions: dict[str, str]

    @property
    def images(self) -> int:
        """Number of images of the input."""
        return int(self.input["images"])


def run_manifest(options: BatchOptions, model_sha256: str, kind: str, fingerprint: Fingerprint) -> RunManifest:
    """Describe a run."""
    from condinst_deploy.serving.batch.output_rows import VERSION as ROWS

    return RunManifest(
        version=VERSION,
        rows=ROWS,
        model={"file": options.model.name, "sha256": model_sha256},
        options=options.recorded(),
        input={"source": public_url(options.input), "kind": kind, **fingerprint._asdict()},
        versions=installed_versions((*RESULT_LIBRARIES, "pyarrow")),
    )


def claim(out: OutputFolder, manifest: RunManifest) -> str:
    """Write the manifest into a new folder; in a folder with one, see that it is the same run.

    Returns:
        SHA-256 of the file.

    Raises:
        ConfigError: the folder belongs to another run, has parts of an unknown one, or its manifest cannot be read.
        OutputError: the folder cannot be used.
    """
    text = json_text(asdict(manifest), FILE, indent=1) + "\n"
    content = out.read(FILE)
    if content is None:
        if _has_parts(out):
            raise ConfigError(f"{out.name} has parts and no {FILE}: it is of an unknown run; name another --out")
        if out.create(FILE, text.encode()):
            return sha256_of_text(text)
        content = out.read(FILE) or b""  # another driver was quicker
    try:
        found = versioned_values(content.decode(errors="replace"), VERSION, "name another --out")
    except ArtifactError as e:
        raise ConfigError(f"{out.name}/{FILE}: {e}") from e
    differences = _differences(found, json.loads(text))
    if differences:
        anew = "" if _has_parts(out) else f". It has no parts: remove {FILE} to use the folder for this run"
        raise ConfigError(
            f"{out.name} belongs to another run: {'; '.join(differences[:3])}. Name another --out, or repeat that run"
            f"{anew}"
        )
    return sha256_of_bytes(content)


@contextmanager
def claimed(out: OutputFolder, manifest: RunManifest) -> Iterator[str]:
    """Claim a folder for the block; see `claim`.

    If the block fails before its first part, a new manifest is removed again, so that a class that the model does not
    have, for example, can be corrected in the next command. A folder of which others are not kept away keeps it.
    """
    was_there = out.exists(FILE)
    run_sha256 = claim(out, manifest)
    try:
        yield run_sha256
    except CondInstError:
        if not was_there and not _has_parts(out):
            out.withdraw(FILE)
        raise


def _has_parts(out: OutputFolder) -> bool:
    return any(name.startswith(PART_PREFIX) for name, _ in out.files())


def _differences(found: Any, wanted: Any, where: str = "") -> list[str]:
    if isinstance(found, dict) and isinstance(wanted, dict):
        names = dict.fromkeys((*wanted, *found))
        parts = (
            _differences(found.get(name), wanted.get(name), f"{where}.{shown(name, 40)}".lstrip(".")) for name in names
        )
        return [difference for part in parts for difference in part]
    if found == wanted:
        return []
    return [f"{where or 'the manifest'} was {_short(found)} and is {_short(wanted)} now"]


def _short(value: Any) -> str:
    return "not set" if value is None else shown_value(value)
