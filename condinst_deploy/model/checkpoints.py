"""Checkpoints: mmdetection's as published, and the toolkit's own format."""

import hashlib
import io
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from condinst_deploy.atomic import atomic_path
from condinst_deploy.coco_classes import COCO_CLASSES
from condinst_deploy.contract import ModelManifest, Preprocessing, contiguous_ids, default_class_names
from condinst_deploy.errors import ArtifactError, CheckpointError, ConfigError
from condinst_deploy.model.condinst import CondInst
from condinst_deploy.model.config import BLOCKS, CondInstConfig
from condinst_deploy.model.key_tables import MMDET, KeyTable, renamed
from condinst_deploy.model.safe_load import load_checkpoint_file

OWN_FORMAT = "condinst-deploy"


@dataclass(frozen=True)
class LoadedModel:
    """A model in evaluation mode, and what its file says of it."""

    model: CondInst
    manifest: ModelManifest
    note: str  # one sentence: which family and architecture were recognised


def load_model(path: str | Path) -> LoadedModel:
    """Load a checkpoint; its family and its architecture are told by its keys and shapes.

    Raises:
        CheckpointError: it cannot be read safely, or it does not fit the model; keys that are unmapped,
            missing or of another shape are listed together.
    """
    path = Path(path)
    content = load_checkpoint_file(path)
    if content.get("format") == OWN_FORMAT:
        return _load_own(path, content)
    state = content.get("state_dict", content)
    if not isinstance(state, Mapping) or "bbox_head.controller.weight" not in state:
        raise CheckpointError(
            f"{path} has none of the keys of a CondInst model (its first keys: {_first_keys(content)});"
            " expected mmdetection's CondInst or a checkpoint saved by this toolkit"
        )
    config = _config_from_shapes(path, {str(k): tuple(v.shape) for k, v in state.items() if isinstance(v, Tensor)})
    config = replace(config, preprocessing=_mmdet_preprocessing(path, state))
    model = CondInst(config)
    _load_weights(path, model, state, MMDET)
    names, ids, remark = _mmdet_classes(content, config.num_classes)
    manifest = ModelManifest(
        class_names=names,
        category_ids=ids,
        preprocessing=config.preprocessing,
        selection=config.selection,
        source=path.name,
        source_sha256=sha256_of(path),
    )
    note = (
        f"mmdetection CondInst, ResNet-{config.depth}, {config.num_classes} classes{remark};"
        " sizes and thresholds are the published configuration's"
    )
    return LoadedModel(model.eval(), manifest, note)


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
    """What a file of the toolkit's own format holds; more entries beside these are fine."""
    return {
        "format": OWN_FORMAT,
        "config": model.config.to_dict(),
        "manifest": manifest.to_json(),
        # contiguous, so that the layout that training likes does not reach the file
        "state_dict": {key: value.cpu().contiguous() for key, value in model.state_dict().items()},
    }


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def _load_own(path: Path, content: dict[str, Any]) -> LoadedModel:
    try:
        config = CondInstConfig.from_dict(content["config"])
        manifest = ModelManifest.from_json(content["manifest"])
        state = content["state_dict"]
        if not isinstance(state, Mapping):
            raise ConfigError("state_dict is not a dictionary of tensors")
    except (KeyError, TypeError, AttributeError, ConfigError, ArtifactError) as e:
        raise CheckpointError(f"{path} is a {OWN_FORMAT} checkpoint with unusable settings: {e}") from e
    if len(manifest.class_names) != config.num_classes:
        raise CheckpointError(f"{path} names {len(manifest.class_names)} classes for a model of {config.num_classes}")
    if (manifest.selection, manifest.preprocessing) != (config.selection, config.preprocessing):
        raise CheckpointError(f"{path} contradicts itself: its manifest and its model have different settings")
    if not manifest.source:
        manifest = replace(manifest, source=path.name, source_sha256=sha256_of(path))
    model = CondInst(config)
    own: KeyTable = ((r"(.+)", r"\1"),)
    _load_weights(path, model, state, own)
    note = f"condinst-deploy checkpoint, ResNet-{config.depth}, {config.num_classes} classes"
    return LoadedModel(model.eval(), manifest, note)


def _load_weights(path: Path, model: CondInst, state: Mapping[str, Any], table: KeyTable) -> None:
    """Copy `state` into the model; one error lists everything that does not fit."""
    expected = model.state_dict()
    state = {str(key): value for key, value in state.items()}
    mapped, unmapped = renamed(list(state), table)
    tensors = {ours: state[theirs] for theirs, ours in mapped.items()}
    theirs_of = {ours: theirs for theirs, ours in mapped.items()}
    problems = [f"unmapped: {key}" for key in unmapped]
    for key in (k for k in tensors if k not in expected):
        problems.append(f"unmapped: {theirs_of[key]} (it would be {key})")
    for key, want in expected.items():
        have = tensors.get(key)
        if have is None:
            if not key.endswith("num_batches_tracked"):  # counts training steps; older files lack it
                problems.append(f"missing: {key}")
        elif not isinstance(have, Tensor) or have.shape != want.shape:
            shape = tuple(have.shape) if isinstance(have, Tensor) else type(have).__name__
            problems.append(f"mis-shaped: {theirs_of[key]} is {shape}, expected {tuple(want.shape)}")
        elif have.layout is not torch.strided or have.is_quantized or have.is_meta or have.is_complex():
            problems.append(f"not plain numbers: {theirs_of[key]} is {have.layout} {have.dtype} on {have.device}")
        elif not torch.isfinite(have).all():
            problems.append(f"not finite: {theirs_of[key]} holds NaN or infinity")
        elif key.endswith("running_var") and (have < 0).any():
            problems.append(f"negative: {theirs_of[key]} holds variances below 0")
    if problems:
        raise CheckpointError(f"{path} does not fit the model, {len(problems)} problems:\n  " + "\n  ".join(problems))
    model.load_state_dict(tensors, strict=False)


def _config_from_shapes(path: Path, shapes: dict[str, tuple[int, ...]]) -> CondInstConfig:
    """Read an mmdetection model's architecture off its tensors."""
    blocks = tuple(
        len({m[1] for m in (re.match(rf"backbone\.layer{layer}\.(\d+)\.", key) for key in shapes) if m})
        for layer in (1, 2, 3, 4)
    )
    bottleneck = "backbone.layer1.0.conv3.weight" in shapes
    depths = [d for d, b in BLOCKS.items() if b == blocks and (d >= 50) == bottleneck]
    if not depths:
        raise CheckpointError(
            f"{path} has a backbone of {blocks} {'bottleneck' if bottleneck else 'basic'} blocks;"
            f" expected a ResNet of depth {sorted(BLOCKS)}"
        )
    try:
        branch = "mask_head.mask_feature_head."
        config = CondInstConfig(
            num_classes=shapes["bbox_head.conv_cls.weight"][0],
            depth=depths[0],
            base_width=shapes["backbone.conv1.weight"][0],
            fpn_channels=shapes["neck.lateral_convs.0.conv.weight"][0],
            tower_convs=sum(re.fullmatch(r"bbox_head\.cls_convs\.\d+\.conv\.weight", k) is not None for k in shapes),
            mask_branch_channels=shapes[f"{branch}conv_pred.weight"][1],
            mask_branch_convs=sum(k.startswith(f"{branch}conv_branch.") and k.endswith("conv.weight") for k in shapes),
            mask_channels=shapes[f"{branch}conv_pred.weight"][0],
        )
    except (KeyError, IndexError, ConfigError) as e:
        raise CheckpointError(f"{path} is not a complete CondInst model of mmdetection: {e}") from e
    return config


def _mmdet_preprocessing(path: Path, state: Mapping[Any, Any]) -> Preprocessing:
    """The published preprocessing, with the file's own mean and std (RGB) where it has them."""
    own: dict[str, tuple[float, ...]] = {}
    for name in ("mean", "std"):
        value = state.get(f"data_preprocessor.{name}")
        if isinstance(value, Tensor) and value.numel() == 3:
            own[name] = tuple(value.flatten().tolist())
    try:
        return Preprocessing.from_dict(own)
    except ConfigError as e:
        raise CheckpointError(f"{path}: its data_preprocessor cannot be used: {e}") from e


def _mmdet_classes(content: dict[str, Any], num_classes: int) -> tuple[tuple[str, ...], tuple[int, ...], str]:
    """Class names and ids from `meta`, where mmdetection 3 (`dataset_meta`) and 2 (`CLASSES`) put them.

    Also a remark for the user where the file does not name the model's classes.
    """
    meta = content.get("meta")
    meta = meta if isinstance(meta, dict) else {}
    dataset = meta.get("dataset_meta")
    named = (dataset.get("classes") or dataset.get("CLASSES")) if isinstance(dataset, dict) else meta.get("CLASSES")
    names = tuple(str(n) for n in named) if isinstance(named, list | tuple) else ()
    remark = ""
    if len(names) != num_classes:
        is_coco = num_classes == len(COCO_CLASSES)
        names = tuple(COCO_CLASSES.values()) if is_coco else default_class_names(num_classes)
        remark = f" (the file does not name them: {'taken for COCO' if is_coco else 'see --class-names'})"
    ids = tuple(COCO_CLASSES) if names == tuple(COCO_CLASSES.values()) else contiguous_ids(names)
    return names, ids, remark


def _first_keys(content: Mapping[Any, Any]) -> str:
    return ", ".join(str(key) for key in list(content)[:3]) or "none"
