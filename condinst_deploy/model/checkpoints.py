"""Checkpoints: mmdetection's and AdelaiDet's as published, and the toolkit's own format."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from condinst_deploy.contract import Family, ModelManifest
from condinst_deploy.contract.model_settings import Selection
from condinst_deploy.errors import ArtifactError, CheckpointError, ConfigError
from condinst_deploy.model.condinst import CondInst
from condinst_deploy.model.config import CondInstConfig
from condinst_deploy.model.key_prefixes import unwrapped
from condinst_deploy.model.published_checkpoints import published_model
from condinst_deploy.model.safe_load import load_checkpoint_file
from condinst_deploy.model.weight_names import KEY_TABLES, KeyTable, renamed
from condinst_deploy.shown_text import counted, shown_value
from condinst_deploy.support.atomic_write import atomic_path
from condinst_deploy.support.digests import sha256_of
from condinst_deploy.support.option_types import checked_arguments
from condinst_deploy.support.validation import printable

OWN_FORMAT = "condinst-deploy"

LARGEST_UNSTORED = 1 << 30
"""Bytes of a model that may be larger than what its file holds."""

COMPARED = {
    *(torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.bool),
    *(torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8),
}
"""Types of stored weights for which PyTorch has every comparison; others, such as floats of 8 bits, are converted."""

PROBLEMS_SHOWN = 20
"""Weights that do not fit, which an error lists; it counts the others."""


@dataclass(frozen=True)
class LoadedModel:
    """A model in evaluation mode, and what its file says of it."""

    model: CondInst
    manifest: ModelManifest
    note: str  # one sentence: which family and architecture were recognised


@checked_arguments
def load_model(path: str | Path, family: Family | None = None, content: dict[str, Any] | None = None) -> LoadedModel:
    """Load a checkpoint; its architecture follows from its keys and shapes.

    Args:
        path: a file of mmdetection, of AdelaiDet, or of this toolkit.
        family: the family that the model must be of; None: recognised by the keys.
        content: of the file, if it was read already.

    Raises:
        CheckpointError: it cannot be read safely, or it does not fit the model; keys that are unmapped,
            missing or of another shape are listed together.
    """
    path = Path(path)
    content = load_checkpoint_file(path) if content is None else content
    if content.get("format") == OWN_FORMAT:
        loaded = _load_own(path, content)
        if family not in (None, loaded.manifest.family):
            raise CheckpointError(f"{path} is a model of the family {loaded.manifest.family}; expected {family}")
        return loaded
    published = published_model(path, content, family)
    model = _with_weights(path, published.config, published.state, KEY_TABLES[published.family])
    manifest = ModelManifest(
        class_names=published.class_names,
        category_ids=published.category_ids,
        family=published.family,
        preprocessing=published.config.preprocessing,
        selection=published.config.selection,
        source=printable(path.name),
        source_sha256=sha256_of(path),
    )
    return LoadedModel(model.eval(), manifest, published.note)


def with_selection(model: CondInst, manifest: ModelManifest, selection: Selection) -> ModelManifest:
    """Set other selection rules on the model, in place, and on a copy of its manifest."""
    model.config = replace(model.config, selection=selection)
    return replace(manifest, selection=selection)


def save_model(path: str | Path, model: CondInst, manifest: ModelManifest) -> None:
    """Save weights, architecture and manifest in the toolkit's own format, atomically.

    Raises:
        OutputError: the file cannot be written.
    """
    write_checkpoint(Path(path), own_content(model, manifest))


def write_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Write a dictionary of tensors and plain values, atomically.

    Raises:
        OutputError: the file cannot be written.
    """
    buffer = io.BytesIO()  # PyTorch's own writer reports a full disk as a broken format
    torch.save(content, buffer)
    with atomic_path(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())


def own_content(model: CondInst, manifest: ModelManifest) -> dict[str, Any]:
    """Content of a file in the toolkit's own format; more entries are allowed."""
    return {
        "format": OWN_FORMAT,
        "config": model.config.to_dict(),
        "manifest": manifest.to_json(),
        # contiguous, so that the layout that training likes does not reach the file
        "state_dict": {key: value.cpu().contiguous() for key, value in model.state_dict().items()},
    }


def _load_own(path: Path, content: dict[str, Any]) -> LoadedModel:
    try:
        config, manifest, state = _own_entries(content)
    except (ConfigError, ArtifactError) as e:
        raise CheckpointError(f"{path} is a {OWN_FORMAT} checkpoint with unusable settings: {e}") from e
    if len(manifest.class_names) != config.num_classes:
        raise CheckpointError(
            f"{path} names {counted(len(manifest.class_names), 'class')} for a model of {config.num_classes}"
        )
    if (manifest.selection, manifest.preprocessing) != (config.selection, config.preprocessing):
        raise CheckpointError(f"{path} contradicts itself: its manifest and its model have different settings")
    if not manifest.source:
        manifest = replace(manifest, source=printable(path.name), source_sha256=sha256_of(path))
    own: KeyTable = ((r"(.+)", r"\1"),)
    state, prefix_remark = unwrapped(path, state)
    model = _with_weights(path, config, state, own)
    note = f"condinst-deploy checkpoint, {config.title}, {counted(config.num_classes, 'class')}{prefix_remark}"
    return LoadedModel(model.eval(), manifest, note)


def _own_entries(content: dict[str, Any]) -> tuple[CondInstConfig, ModelManifest, Mapping[str, Any]]:
    missing = [name for name in ("config", "manifest", "state_dict") if name not in content]
    if missing:
        raise ConfigError(f"it has no entry {', '.join(missing)}")
    manifest, state = content["manifest"], content["state_dict"]
    if not isinstance(manifest, str):
        raise ConfigError(f"manifest is {shown_value(manifest)}; expected text")
    if not isinstance(state, Mapping) or not all(isinstance(key, str) for key in state):
        raise ConfigError(f"state_dict is {shown_value(state)}; expected a dictionary of tensors with their names")
    return CondInstConfig.from_dict(content["config"]), ModelManifest.from_json(manifest), state


def _with_weights(path: Path, config: CondInstConfig, state: Mapping[str, Any], table: KeyTable) -> CondInst:
    """A model with the weights of `state`.

    The shapes that the configuration implies are compared with the file's before memory is allocated for them.
    """
    with torch.device("meta"):
        expected = CondInst(config).state_dict()
    tensors = _fitting(path, expected, state, table)
    check_stored(path, expected, tensors)
    model = CondInst(config)
    model.load_state_dict(tensors, strict=False)
    return model


def check_stored(
    path: Path, expected: Mapping[str, Tensor], tensors: Mapping[str, Tensor], largest_unstored: int = LARGEST_UNSTORED
) -> None:
    """Refuse a small file that describes a huge model: a stored tensor can repeat one number over any shape.

    Args:
        path: the file, for the message.
        expected: the model's weights; they may have no memory.
        tensors: the file's.
        largest_unstored: bytes of a model that may be larger than what its file holds.

    Raises:
        CheckpointError: the file holds less than a quarter of the model: weights may be stored in 16 or 8 bits.
    """
    needed = sum(want.nbytes for want in expected.values())
    storages = (tensor.untyped_storage() for tensor in tensors.values())
    stored = sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())
    if needed > max(largest_unstored, 4 * stored):
        raise CheckpointError(
            f"{path} holds {stored / 1e9:.1f} GB of numbers for a model of {needed / 1e9:.1f} GB; expected all of them"
        )


def _fitting(
    path: Path, expected: Mapping[str, Tensor], state: Mapping[str, Any], table: KeyTable
) -> dict[str, Tensor]:
    """The weights under this toolkit's names; one error lists everything that does not fit."""
    mapped, unmapped = renamed(list(state), table)
    tensors = {ours: state[theirs] for theirs, ours in mapped.items()}
    theirs_of = {ours: theirs for theirs, ours in mapped.items()}
    problems = [f"unmapped: {key}" for key in unmapped]
    problems += [f"unmapped: {theirs_of[key]} (it would be {key})" for key in tensors if key not in expected]
    check_fitting(path, expected, tensors, theirs_of, problems)
    return tensors


def check_fitting(
    path: Path,
    expected: Mapping[str, Tensor],
    tensors: Mapping[str, Any],
    theirs_of: Mapping[str, str],
    problems: Sequence[str] = (),
) -> None:
    """Check that every expected weight is there, with its shape, and finite in the model's type.

    Args:
        path: of the file, for messages.
        expected: weights of the model, which may be on the meta device.
        tensors: values of the file under the model's names.
        theirs_of: the model's names -> the file's names, where they differ.
        problems: what was found before.

    Raises:
        CheckpointError: something does not fit; one error lists everything.
    """
    found = list(problems)
    for key, want in expected.items():
        have = tensors.get(key)
        if have is None:
            if not key.endswith("num_batches_tracked"):  # counts training steps; older files lack it
                found.append(f"missing: {key}")
        elif problem := _problem(key, theirs_of.get(key, key), have, want):
            found.append(problem)
    if found:
        shown = found[:PROBLEMS_SHOWN]
        if len(found) > len(shown):
            shown = [*shown, f"and {len(found) - len(shown)} more"]
        raise CheckpointError(f"{path} does not fit the model, {counted(len(found), 'problem')}: {'; '.join(shown)}")


def _problem(key: str, theirs: str, have: object, want: Tensor) -> str | None:
    """Return why a weight of the file cannot be used as the model's weight `key`; None if it can."""
    if not isinstance(have, Tensor) or have.shape != want.shape:
        shape = tuple(have.shape) if isinstance(have, Tensor) else type(have).__name__
        return f"mis-shaped: {theirs} is {shape}, expected {tuple(want.shape)}"
    numbers = _comparable(have)
    if numbers is None:
        return f"not plain numbers: {theirs} is {have.layout} {have.dtype} on {have.device}"
    if not torch.isfinite(numbers).all():
        return f"not finite: {theirs} holds NaN or infinity"
    if numbers.dtype != want.dtype and not torch.isfinite(numbers.to(want.dtype)).all():
        return f"not finite: {theirs} is {have.dtype} with numbers that {want.dtype} cannot hold"
    if key.endswith("running_var") and (numbers < 0).any():
        return f"negative: {theirs} holds variances below 0"
    return None


def _comparable(tensor: Tensor) -> Tensor | None:
    """The numbers of a stored tensor in a type that PyTorch compares; None if it does not hold plain numbers."""
    if tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_meta or tensor.is_complex():
        return None
    if tensor.dtype in COMPARED:
        return tensor
    try:
        return tensor.to(torch.float64)
    except (NotImplementedError, RuntimeError):  # parts of a byte, or bits without a meaning
        return None
