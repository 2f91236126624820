"""An exported file becomes an engine file: read, convert, build, describe, write."""

import hashlib
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

import onnx

from condinst_deploy.atomic import atomic_path
from condinst_deploy.contract import ModelManifest
from condinst_deploy.engine_manifest import EngineManifest, host, write_engine
from condinst_deploy.errors import ConfigError, EngineError
from condinst_deploy.model.checkpoints import sha256_of
from condinst_engines.build import (
    BuiltEngine,
    Surroundings,
    build_engine,
    graph_for_builder,
    plugin_graph_for_builder,
    targets_of,
)
from condinst_engines.flavour import Flavour
from condinst_engines.onnx_input import load_onnx, manifest_of
from condinst_engines.plugins import register_plugins
from condinst_engines.plugins.names import LOWEST_CAPABILITY
from condinst_engines.profiles import profiles_for
from condinst_engines.recipe import SHORT, BuildRecipe

DEFAULT_FOLDER = Path("engines/build")
"""Where engines go, below the current directory."""

ENGINE_SUFFIX = ".engine"


@dataclass(frozen=True)
class EngineFiles:
    """Files of one build."""

    source: Path  # the exported file
    engine: Path | None = None  # None: below the current directory, under the name that tells what it is
    keep_onnx: Path | None = None  # where to leave the graph that the builder got

    def __post_init__(self) -> None:
        """Check the names.

        Raises:
            ConfigError: an ending is wrong.
        """
        for path, suffix in ((self.engine, ENGINE_SUFFIX), (self.keep_onnx, ".onnx")):
            if path is not None and path.suffix != suffix:
                raise ConfigError(f"the file to write is {path}; expected a name ending in {suffix}")


class Source(NamedTuple):
    """The exported file, as it was when it was read."""

    name: str
    sha256: str


def engine_from_onnx(
    files: EngineFiles, recipe: BuildRecipe, flavour: Flavour, surroundings: Surroundings
) -> tuple[Path, EngineManifest]:
    """Build an engine and write it with its manifest.

    Returns:
        The engine's absolute path, and its manifest.

    Raises:
        ArtifactError: the exported file cannot be used.
        ConfigError, EngineError, BackendError: it cannot be built so.
        OutputError: a file cannot be written.
        KeyboardInterrupt: Ctrl-C; nothing was written.
    """
    proto = load_onnx(files.source)
    model = manifest_of(proto, files.source)
    if model.precision != "float32":
        raise EngineError(f"{files.source} is in {model.precision} already; give the file that condinst-export wrote")
    profiles = profiles_for(model, recipe.profiles)
    path = files.engine or default_engine_path(files.source, recipe, flavour)
    source = Source(files.source.name, sha256_of(files.source))
    graph, plugins = graph_and_plugins(proto, recipe, flavour, surroundings)
    if files.keep_onnx is not None:
        with atomic_path(files.keep_onnx) as temporary:
            onnx.save(graph, str(temporary))
    built = build_engine(graph, profiles, recipe, flavour, surroundings)
    manifest = _manifest(built, replace(model, precision=recipe.precision), recipe, flavour, source)
    manifest = replace(manifest, plugins=plugins)
    write_engine(path.absolute(), built.plan, manifest)
    return path.absolute(), manifest


def graph_and_plugins(
    proto: onnx.ModelProto, recipe: BuildRecipe, flavour: Flavour, surroundings: Surroundings
) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """The builder's graph and its plugins; they are registered."""
    if not flavour.has_plugins or not recipe.tensorrt.plugins:
        return graph_for_builder(proto, recipe), ()
    targets = targets_of(recipe, flavour)
    if min(int(target) for target in targets) < LOWEST_CAPABILITY:
        surroundings.on_note(f"no plugins: the kernels are for sm_{LOWEST_CAPABILITY} on, this is {', '.join(targets)}")
        return graph_for_builder(proto, recipe), ()
    rewritten = plugin_graph_for_builder(proto, recipe)
    for reason in rewritten.refused:
        surroundings.on_note(f"no plugin for {reason}")
    register_plugins(flavour)
    return rewritten.proto, rewritten.plugins


def default_engine_path(source: Path, recipe: BuildRecipe, flavour: Flavour) -> Path:
    """`engines/build/<stem>.<flavour>.<precision>.sm<targets>.engine`, or `ampereplus` for the targets."""
    targets = "sm" + "-".join(targets_of(recipe, flavour))
    if _hardware_compatible(recipe, flavour):
        targets = "ampereplus"
    name = f"{source.stem}.{flavour.name}.{SHORT[recipe.precision]}.{targets}{ENGINE_SUFFIX}"
    return DEFAULT_FOLDER / name


def _manifest(
    built: BuiltEngine, model: ModelManifest, recipe: BuildRecipe, flavour: Flavour, source: Source
) -> EngineManifest:
    return EngineManifest(
        flavour=flavour.name,
        library_version=flavour.version,
        precision=recipe.precision,
        found=built.found,
        targets=built.targets,
        tensors=built.tensors,
        profiles=built.profiles,
        model=model,
        onnx=source.name,
        onnx_sha256=source.sha256,
        plan_sha256=hashlib.sha256(built.plan).hexdigest(),
        plan_bytes=len(built.plan),
        hardware_compatible=_hardware_compatible(recipe, flavour),
        version_compatible=flavour.has_compatibility and recipe.tensorrt.version_compatible,
        refittable=recipe.refit or recipe.strip_weights,
        weights_stripped=recipe.strip_weights,
        build_seconds=round(built.seconds, 1),
        host=host(),
        tools=_tools(flavour),
    )


def _hardware_compatible(recipe: BuildRecipe, flavour: Flavour) -> bool:
    return flavour.has_compatibility and recipe.tensorrt.hardware_compatible


def _tools(flavour: Flavour) -> dict[str, str]:
    found = {flavour.trt.__name__: flavour.version}
    for name in ("condinst-deploy", "onnx", "onnx-ir"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
