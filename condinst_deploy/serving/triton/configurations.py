"""Triton's configuration of both models, as plain values for `config_text`."""

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
from condinst_deploy.serving.triton.repository_settings import RepositoryOptions

SERVER_TYPES = {"float32": "TYPE_FP32", "float16": "TYPE_FP16"}

WARM_UP_SIDE = 320
"""Height and width of the blank images that an ONNX file is warmed up with in the server's own backend."""


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
        # more are refused at once; what waits for the network is bounded by this model's instances
        "dynamic_batching": _batching(options)
        | {"default_queue_policy": {"max_queue_size": options.limits.queued_requests}},
        "parameters": [{"key": MANIFEST_PARAMETER, "value": {"string_value": manifest.to_json()}}],
    }


def network_model_config(
    options: RepositoryOptions, manifest: ModelManifest, engine: EngineManifest | None
) -> dict[str, Any]:
    """The network as a separate model; requests of equal padded shape are merged."""
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
    shapes = _tuned_shapes(options, manifest, engine)
    config["model_warmup"] = [
        {"name": f"blank images {batch}x{height}x{width}", "batch_size": batch, "inputs": _blank_images(height, width)}
        for batch, height, width in shapes
    ]
    if options.network_backend == "tensorrt":
        config["platform"] = "tensorrt_plan"
        profiles = engine.profiles if engine else ()
        if profiles:  # without the list the server uses the first profile only
            config["instance_group"][0]["profile"] = [str(number) for number in range(len(profiles))]
    if options.cuda_graphs:
        config["optimization"] = {"cuda": {"graphs": True, "graph_spec": [_graph(*shape) for shape in shapes]}}
    return config


def _tuned_shapes(
    options: RepositoryOptions, manifest: ModelManifest, engine: EngineManifest | None
) -> list[tuple[int, int, int]]:
    """(batch, height, width) that the network is tuned for: of each of the engine's profiles, or its only shape."""
    images = INPUTS[0]
    shapes = [profile[images].opt for profile in engine.profiles] if engine else []
    if not shapes:
        batch, *sides = manifest.static_shape or (options.max_batch, WARM_UP_SIDE, WARM_UP_SIDE)
        return [(batch, sides[0], sides[1])]
    return list(dict.fromkeys((min(shape[0], options.max_batch), shape[2], shape[3]) for shape in shapes))


def _blank_images(height: int, width: int) -> list[dict[str, Any]]:
    images, sizes = INPUTS
    return [
        {"key": images, "value": _blank("TYPE_UINT8", [3, height, width])},
        {"key": sizes, "value": _blank("TYPE_INT32", [2])},
    ]


def _graph(batch: int, height: int, width: int) -> dict[str, Any]:
    """A shape that is captured in a CUDA graph when the model is loaded."""
    images, sizes = INPUTS
    shapes = ((images, [3, height, width]), (sizes, [2]))
    return {"batch_size": batch, "input": [{"key": name, "value": {"dim": dims}} for name, dims in shapes]}


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
    return {"max_queue_delay_microseconds": round(1000 * options.delay_ms)}
