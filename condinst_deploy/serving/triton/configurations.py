"""Triton's configuration of both models, as plain values for `config_text`."""

import json
from dataclasses import asdict
from typing import Any

from condinst_deploy.contract import INPUTS, OUTPUTS, ModelManifest
from condinst_deploy.contract.engine_manifest import EngineManifest
from condinst_deploy.serving.protocol import (
    BOXES,
    IMAGE,
    IMAGE_SIZE,
    LABELS,
    MANIFEST_PARAMETER,
    MASKS,
    MODEL,
    NETWORK,
    RLE_COUNTS,
    SCORES,
)
from condinst_deploy.serving.triton.config_text import Word
from condinst_deploy.serving.triton.settings import RepositoryOptions

SERVER_TYPES = {"float32": "TYPE_FP32", "float16": "TYPE_FP16"}

WARM_UP_SIDE = 320
"""Height and width of the blank images that a network of the server's own backends is warmed up with."""


def image_model_config(options: RepositoryOptions, manifest: ModelManifest) -> dict[str, Any]:
    """The model that clients ask: one encoded image in, detections out."""
    outputs = {
        BOXES: ("TYPE_FP32", [-1, 4]),
        SCORES: ("TYPE_FP32", [-1]),
        LABELS: ("TYPE_INT32", [-1]),
        IMAGE_SIZE: ("TYPE_INT32", [2]),
        RLE_COUNTS: ("TYPE_STRING", [-1]),
        MASKS: ("TYPE_UINT8", [-1, -1, -1]),
    }
    inside = options.layout == "single"
    return {
        "name": MODEL,
        "backend": "python",
        "max_batch_size": options.max_batch,
        "version_policy": {"latest": {"num_versions": 1}},
        "input": [_tensor(IMAGE, "TYPE_STRING", [1])],
        "output": [_tensor(name, kind, dims) for name, (kind, dims) in outputs.items()],
        "instance_group": [_instances(options, on_gpu=inside and options.device == "cuda")],
        "dynamic_batching": _batching(options),
        "parameters": [{"key": MANIFEST_PARAMETER, "value": {"string_value": json.dumps(asdict(manifest))}}],
    }


def network_model_config(
    options: RepositoryOptions, manifest: ModelManifest, engine: EngineManifest | None
) -> dict[str, Any]:
    """The network as a model of its own; requests of equal padded shape are merged."""
    slots = manifest.selection.max_detections
    images, sizes = INPUTS
    count, boxes, scores, labels, logits = OUTPUTS
    scalar: dict[str, Any] = {"reshape": {"shape": []}}  # (B,) in the network; Triton's dims cannot be empty
    config: dict[str, Any] = {
        "name": NETWORK,
        "backend": options.network_backend,
        "max_batch_size": options.max_batch,
        "version_policy": {"latest": {"num_versions": 1}},
        "input": [_tensor(images, "TYPE_UINT8", [3, -1, -1]), _tensor(sizes, "TYPE_INT32", [2])],
        "output": [
            _tensor(count, "TYPE_INT32", [1]) | scalar,
            _tensor(boxes, "TYPE_FP32", [slots, 4]),
            _tensor(scores, "TYPE_FP32", [slots]),
            _tensor(labels, "TYPE_INT32", [slots]),
            _tensor(logits, _logits_type(manifest, engine), [slots, -1, -1]),
        ],
        "instance_group": [_instances(options, on_gpu=options.device == "cuda")],
        "dynamic_batching": _batching(options),
    }
    if options.network_backend == "python":
        return config
    if options.network_backend == "tensorrt":
        config["platform"] = "tensorrt_plan"
    zeros = {"key": images, "value": _blank("TYPE_UINT8", [3, WARM_UP_SIDE, WARM_UP_SIDE])}
    whole = {"key": sizes, "value": _blank("TYPE_INT32", [2])}
    config["model_warmup"] = [{"name": "blank images", "batch_size": options.max_batch, "inputs": [zeros, whole]}]
    return config


def _logits_type(manifest: ModelManifest, engine: EngineManifest | None) -> str:
    if engine is None:
        return SERVER_TYPES["float16" if manifest.precision == "float16" else "float32"]
    return SERVER_TYPES[next(tensor.dtype for tensor in engine.outputs if tensor.name == OUTPUTS[-1])]


def _tensor(name: str, kind: str, dims: list[int]) -> dict[str, Any]:
    return {"name": name, "data_type": Word(kind), "dims": dims}


def _blank(kind: str, dims: list[int]) -> dict[str, Any]:
    return {"data_type": Word(kind), "dims": dims, "zero_data": True}


def _instances(options: RepositoryOptions, on_gpu: bool) -> dict[str, Any]:
    kind = Word("KIND_GPU" if on_gpu else "KIND_CPU")
    return {"count": options.instances, "kind": kind, "rate_limiter": {"priority": 1}}


def _batching(options: RepositoryOptions) -> dict[str, Any]:
    return {
        "max_queue_delay_microseconds": round(1000 * options.delay_ms),
        "default_queue_policy": {"max_queue_size": options.limits.queued_requests},
    }
