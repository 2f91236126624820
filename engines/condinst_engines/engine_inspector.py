"""Layers of an engine as TensorRT's inspector lists them; this needs a GPU that can load the engine."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from condinst_deploy.contract.engine_manifest import ENGINE_INSPECTOR, EngineManifest, FoundPrecision
from condinst_deploy.errors import ArtifactError, BackendError
from condinst_deploy.runtime.tensorrt.plan import engine_from_plan
from condinst_engines.builder_library import BuilderLibrary
from condinst_engines.builder_log import BuilderLog

FORMATS = (("bfloat16", ("bf16", "bfloat16")), ("float16", ("fp16", "half")), ("float32", ("fp32", "float")))
"""Type -> words of the inspector's descriptions ("Half", "Channel major FP16 format"); the first match counts."""


def layers_of(
    plan: bytes, library: BuilderLibrary, manifest: EngineManifest | None = None, host_code: bool = False
) -> list[dict[str, Any]]:
    """The inspector's description of every layer.

    Args:
        plan: the engine.
        library: the library that loads it.
        manifest: the engine's, checked against library and GPU.
        host_code: allow the code that a version-compatible engine brings; a manifest says so itself.

    Raises:
        ArtifactError: the engine is not for this library or this GPU.
        BackendError: there is no GPU, or the library cannot load the engine.
    """
    if not torch.cuda.is_available():
        raise BackendError("PyTorch sees no NVIDIA GPU on this machine, and an engine can only be loaded on one")
    if manifest is not None:
        major, minor = torch.cuda.get_device_capability()
        manifest.check_loadable(library.name, library.version, f"{major}{minor}")
    log = BuilderLog(library.trt)
    allowed = host_code or (manifest is not None and manifest.version_compatible)
    engine = engine_from_plan(library.trt, log.logger, plan, host_code=allowed)
    if engine is None:
        raise BackendError(f"the library cannot load the engine: {log.reason}")
    text = engine.create_engine_inspector().get_engine_information(library.trt.LayerInformationFormat.JSON)
    return layers_from_json(text)


def layers_from_json(text: str) -> list[dict[str, Any]]:
    """Layers of the inspector's JSON; a plan without details has names only.

    Raises:
        ArtifactError: it is not the inspector's JSON.
    """
    try:
        layers = json.loads(text)["Layers"]
    except (json.JSONDecodeError, KeyError, TypeError) as e:
        raise ArtifactError(f"the engine inspector's answer cannot be read ({e!r})") from e
    return [layer if isinstance(layer, dict) else {"Name": layer} for layer in layers]


def found_in_engine(layers: Sequence[Mapping[str, Any]]) -> FoundPrecision:
    """Layers of floating point: of a half type where they take or give one, as a fused layer may give float32."""
    kinds = (_kind_of_layer(layer) for layer in layers)
    return FoundPrecision(ENGINE_INSPECTOR, dict(Counter(kind for kind in kinds if kind)))


def _kind_of_layer(layer: Mapping[str, Any]) -> str | None:
    tensors = [*(layer.get("Outputs") or []), *(layer.get("Inputs") or [])]
    kinds = [kind for tensor in tensors if (kind := _kind(tensor))]
    return next((kind for kind in kinds if kind != "float32"), kinds[0] if kinds else None)


def _kind(tensor: Mapping[str, Any]) -> str | None:
    words = str(tensor.get("Format/Datatype", "")).lower()
    return next((kind for kind, signs in FORMATS if any(sign in words for sign in signs)), None)
