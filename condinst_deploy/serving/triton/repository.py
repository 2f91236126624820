"""Write a model repository that a stock Triton server loads."""

import os
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from condinst_deploy.contract import INPUTS, ModelManifest
from condinst_deploy.contract.artifacts import ENGINE, ONNX, check_there, model_kind
from condinst_deploy.contract.engine_manifest import EngineManifest, manifest_path, read_engine
from condinst_deploy.errors import ConfigError
from condinst_deploy.runtime.canvases import canvases_for
from condinst_deploy.runtime.predictor import load_backend
from condinst_deploy.serving.protocol import MODEL, NETWORK
from condinst_deploy.serving.triton.config_text import config_text
from condinst_deploy.serving.triton.configurations import image_model_config, network_model_config
from condinst_deploy.serving.triton.guide import repository_guide
from condinst_deploy.serving.triton.repository_settings import SETTINGS_FILE, RepositoryOptions, ServerSettings
from condinst_deploy.support.atomic_folder import atomic_folder

SHIM = '''"""The model that Triton's Python backend loads; the package condinst_deploy has the code."""

from condinst_deploy.serving.triton.server_model import {name} as TritonPythonModel

__all__ = ["TritonPythonModel"]
'''


def write_repository(model: Path, out: Path, options: RepositoryOptions | None = None) -> Path:
    """Write a repository for one exported file or engine.

    Args:
        model: an `.onnx` file or an engine with its manifest.
        out: folder to write; it must not exist yet, or be empty.
        options: layout, device, batching and limits.

    Returns:
        The repository's absolute path.

    Raises:
        ArtifactError: the file cannot be used.
        ConfigError: the file is of another kind, or the options do not fit it.
        OutputError: the folder is not empty, or cannot be written.
    """
    options = options or RepositoryOptions()
    kind = model_kind(model, (ONNX, ENGINE))
    check_there(model)
    engine = read_engine(model)[1] if kind == ENGINE else None
    manifest = engine.model if engine else _onnx_manifest(model)
    options = _fitting(options, manifest, engine)
    with atomic_folder(out) as draft:
        _write(draft, model, manifest, engine, options)
    return out.absolute()


def _onnx_manifest(path: Path) -> ModelManifest:
    with load_backend(path, "cpu") as backend:
        return backend.manifest


def _fitting(options: RepositoryOptions, manifest: ModelManifest, engine: EngineManifest | None) -> RepositoryOptions:
    """Options limited to what the file takes; what cannot work is refused."""
    if options.canvases is not None:
        options = replace(options, canvases=tuple(canvases_for(manifest, options.canvases)))
    if engine is not None and options.device != "cuda":
        raise ConfigError("an engine runs on a GPU: give --device cuda")
    if options.layout == "ensemble":
        _check_network_backend(options, engine)
    largest = manifest.static_shape[0] if manifest.static_shape else None
    if engine is not None and engine.profiles:
        largest = max(profile[INPUTS[0]].max[0] for profile in engine.profiles)
    if manifest.static_shape and options.layout == "ensemble" and options.network_backend != "python":
        raise ConfigError(
            "a file of fixed shape cannot be batched by the server's own backends; use --network-backend python,"
            " the layout single, or export with dynamic shapes"
        )
    return options if largest is None else replace(options, max_batch=min(options.max_batch, largest))


def _check_network_backend(options: RepositoryOptions, engine: EngineManifest | None) -> None:
    name = options.network_backend
    if name == "tensorrt" and engine is None:
        raise ConfigError("--network-backend tensorrt needs an engine; an .onnx file runs on onnxruntime or python")
    if name == "tensorrt" and engine is not None and engine.flavour != "tensorrt":
        raise ConfigError(
            f"the engine is of the flavour {engine.flavour}, which the server's TensorRT backend does not load;"
            " build one with --flavour tensorrt, or use --network-backend python"
        )
    if name == "onnxruntime" and engine is not None:
        raise ConfigError("--network-backend onnxruntime needs an .onnx file; an engine runs on tensorrt or python")


def _write(
    draft: Path, model: Path, manifest: ModelManifest, engine: EngineManifest | None, options: RepositoryOptions
) -> None:
    inside = options.layout == "single"
    settings = _settings(model.name if inside else "", manifest, options)
    _write_python_model(draft / MODEL, image_model_config(options, manifest), "ImageModel", settings, options.version)
    if inside:
        _copy_model(model, draft / MODEL / str(options.version), model.name)
    else:
        _write_network(draft / NETWORK, model, manifest, engine, options)
    (draft / "README.md").write_text(
        repository_guide(model, manifest, engine, options), encoding="utf-8", errors="backslashreplace"
    )


def _write_network(
    folder: Path, model: Path, manifest: ModelManifest, engine: EngineManifest | None, options: RepositoryOptions
) -> None:
    config = network_model_config(options, manifest, engine)
    if options.network_backend == "python":
        settings = _settings(model.name, manifest, options)
        _write_python_model(folder, config, "NetworkModel", settings, options.version)
        _copy_model(model, folder / str(options.version), model.name)
        return
    version = folder / str(options.version)
    version.mkdir(parents=True)
    (folder / "config.pbtxt").write_text(config_text(config), encoding="utf-8")
    name = "model.plan" if options.network_backend == "tensorrt" else "model.onnx"
    shutil.copyfile(model, version / name)


def _settings(model: str, manifest: ModelManifest, options: RepositoryOptions) -> ServerSettings:
    return ServerSettings(
        manifest,
        model,
        options.device,
        options.max_batch,
        instances=options.instances,
        canvases=options.canvases,
        limits=options.limits,
    )


def _write_python_model(
    folder: Path, config: Mapping[str, Any], name: str, settings: ServerSettings, version: int
) -> None:
    home = folder / str(version)
    home.mkdir(parents=True)
    (folder / "config.pbtxt").write_text(config_text(config), encoding="utf-8")
    (home / "model.py").write_text(SHIM.format(name=name), encoding="utf-8")
    (home / SETTINGS_FILE).write_text(settings.to_json(), encoding="utf-8")


def _copy_model(model: Path, folder: Path, name: str) -> None:
    shutil.copyfile(model, folder / name)
    if os.path.exists(manifest_path(model)):  # noqa: PTH110  (Path.exists raises on names that no file can have)
        shutil.copyfile(manifest_path(model), folder / manifest_path(Path(name)).name)
