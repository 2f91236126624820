"""ONNX graph -> plan in memory: write the precision into the graph, inline functions, run TensorRT's builder.

Both builders use the same code. TensorRT for RTX needs no GPU and builds for the GPUs that are named; full TensorRT
builds on the GPU that the engine is for.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import onnx
import onnx.inliner
import torch

from condinst_deploy.contract.engine_manifest import (
    AMPERE,
    ENGINE_INSPECTOR,
    EngineProfile,
    EngineTensor,
    FoundPrecision,
)
from condinst_deploy.errors import ArtifactError, BackendError, ConfigError, EngineError
from condinst_deploy.support.signals import whole_steps
from condinst_engines.build_recipe import BuildRecipe
from condinst_engines.builder_library import BuilderLibrary
from condinst_engines.builder_log import BuilderLog
from condinst_engines.engine_inspector import found_in_engine, layers_of
from condinst_engines.mixed_precision import converted
from condinst_engines.monitor import OnProgress, Phases, progress_monitor
from condinst_engines.quantization.insert import Scales, insert_qdq
from condinst_engines.quantization.proof import (
    FoundConvolutions,
    asked_convolutions,
    check_quantized,
    convolutions_of_layers,
    convolutions_of_plan,
)
from condinst_engines.quantization.requests import check_targets
from condinst_engines.rewrites.plugins import Rewritten, with_plugins
from condinst_engines.typed_network import check_precision, check_types, found_in_network, parsed_network, tensors_of

if TYPE_CHECKING:
    import tensorrt

GIB = 1 << 30
LARGEST_PROTO = 2**31 - 1


@dataclass(frozen=True)
class Surroundings:
    """Inputs and callbacks of a build besides its recipe."""

    timing_cache: Path | None = None  # read where it exists; what the build adds is in BuiltEngine.timings
    log: TextIO | None = None  # takes everything that the builder says
    on_progress: OnProgress = field(default=lambda share, phase: None)
    on_note: Callable[[str], None] = field(default=lambda note: None)  # takes what a user should know


@dataclass(frozen=True)
class BuiltEngine:
    """A plan, and what is known of it."""

    plan: bytes
    targets: tuple[str, ...]
    tensors: tuple[EngineTensor, ...]
    found: FoundPrecision
    profiles: tuple[EngineProfile, ...]
    warnings: tuple[str, ...]
    seconds: float
    timings: bytes = b""  # contents of the timing cache, where one was asked for


def graph_for_builder(proto: onnx.ModelProto, recipe: BuildRecipe, scales: Scales | None = None) -> onnx.ModelProto:
    """The exact graph that the builder gets: of the recipe's precision, functions inlined.

    The bodies of the special operations are inlined because the parser can mis-wire local functions.

    Args:
        proto: a file of condinst-export.
        recipe: precision and policy.
        scales: of a quantised engine.

    Raises:
        ConfigError, EngineError: as `precision.converted`.
    """
    return onnx.inliner.inline_local_functions(_typed(proto, recipe, scales))


def plugin_graph_for_builder(proto: onnx.ModelProto, recipe: BuildRecipe, scales: Scales | None = None) -> Rewritten:
    """Return the graph of `graph_for_builder` with plugins for the special operations that the kernels cover."""
    typed = _typed(proto, recipe, scales)
    rewritten = with_plugins(typed, _of_several_types(proto, recipe))
    return rewritten._replace(proto=onnx.inliner.inline_local_functions(rewritten.proto))


def _typed(proto: onnx.ModelProto, recipe: BuildRecipe, scales: Scales | None) -> onnx.ModelProto:
    """The graph with its precision: Q/DQ first, while names and policy match, then halves."""
    if scales is None:
        return converted(proto, recipe.precision, recipe.policy)
    insert = partial(insert_qdq, scales=scales, policy=recipe.policy, precision=recipe.precision)
    return converted(proto, recipe.precision, recipe.policy, insert)


def _of_several_types(proto: onnx.ModelProto, recipe: BuildRecipe) -> dict[str, str]:
    """Functions whose nodes the recipe's policy names: a kernel computes all of them in one way."""
    policy, found = recipe.policy, {}
    for function in proto.functions:
        named = [node.name for node in function.node if policy.rule_for(node.name) in policy.own_rules]
        if named:
            found[function.name] = f"the policy gives its node {named[0]} its own level"
    return found


def build_plan(
    graph: onnx.ModelProto,
    profiles: Sequence[EngineProfile],
    recipe: BuildRecipe,
    library: BuilderLibrary,
    surroundings: Surroundings | None = None,
) -> BuiltEngine:
    """Build a plan from a graph of `graph_for_builder`.

    Args:
        graph: precision written in, no functions left.
        profiles: at least one for a graph with dynamic shapes.
        recipe: everything else that decides the engine.
        library: the builder.
        surroundings: files and progress.

    Raises:
        ConfigError: the builder does not offer what the recipe asks for.
        EngineError: the parser or the builder refuses, or a tensor has not the precision that was asked for.
        KeyboardInterrupt: Ctrl-C was pressed; the builder stopped at its next step.
    """
    surroundings = surroundings or Surroundings()
    targets, also = targets_of(recipe, library), recipe.policy.own_types(recipe.precision)
    started = time.perf_counter()
    log = BuilderLog(library.trt, surroundings.log)
    builder: tensorrt.Builder = library.trt.Builder(log.logger)
    # an exception out of a callback, the logger's too, would cross the library's frames
    with whole_steps() as interruption:
        network = parsed_network(library, builder, _serialised(graph), log)
        check_types(network, graph)
        check_precision(found_in_network(network), recipe.precision, also)
        config = builder.create_builder_config()
        _add_profiles(builder, config, profiles, log)
        _apply(recipe, config, library)
        if library.builds_ahead:
            _set_targets(config, library.trt, targets)
        cache = timing_cache_of(config, library, surroundings.timing_cache)
        monitor = progress_monitor(library.trt, Phases(surroundings.on_progress), interruption)
        config.progress_monitor = monitor
        plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise EngineError(f"the builder could not build the engine: {log.reason}{_hint(recipe, library)}")
    content = bytes(memoryview(plan))
    found = _found_in_plan(content, library, recipe, targets, surroundings) or found_in_network(network)
    check_precision(found, recipe.precision, also)
    asked = asked_convolutions(graph)
    if asked:
        check_quantized(*_found_convolutions(content, library, recipe, asked))
    return BuiltEngine(
        plan=content,
        targets=targets,
        tensors=tensors_of(network),
        found=found,
        profiles=tuple(profiles),
        warnings=tuple(dict.fromkeys(log.warnings)),
        seconds=time.perf_counter() - started,
        timings=b"" if cache is None else bytes(memoryview(cache.serialize())),
    )


def _found_convolutions(
    plan: bytes, library: BuilderLibrary, recipe: BuildRecipe, asked: dict[str, str]
) -> tuple[FoundConvolutions, dict[str, str], str]:
    """Types that the engine's convolutions read, the requested ones, and the source of the finding."""
    if library.builds_ahead:
        return convolutions_of_plan(plan), asked, "plan's program"
    layers = layers_of(plan, library, host_code=recipe.tensorrt.version_compatible)
    return convolutions_of_layers(layers, asked), asked, ENGINE_INSPECTOR


def _found_in_plan(
    plan: bytes, library: BuilderLibrary, recipe: BuildRecipe, targets: Sequence[str], surroundings: Surroundings
) -> FoundPrecision | None:
    """Return the engine's own types; None if this machine cannot load it, or the plan does not say."""
    if not torch.cuda.is_available() or recipe.strip_weights:
        return None
    major, minor = torch.cuda.get_device_capability()
    if f"{major}{minor}" not in targets:
        return None
    try:
        found = found_in_engine(layers_of(plan, library, host_code=recipe.tensorrt.version_compatible))
    except (ArtifactError, BackendError) as e:
        surroundings.on_note(f"the precision is the typed network's, the engine could not be inspected: {e}")
        return None
    return found if found.layers else None


def targets_of(recipe: BuildRecipe, library: BuilderLibrary) -> tuple[str, ...]:
    """Compute capabilities that the engine is for.

    Raises:
        ConfigError: the builder builds for other GPUs, or not ahead of time.
        EngineError: it builds on the GPU at hand, and there is none.
    """
    targets = _ahead_targets(recipe, library) if library.builds_ahead else _target_here(recipe)
    if recipe.quantized is not None:
        check_targets(recipe.quantized, targets)
    return targets


def _target_here(recipe: BuildRecipe) -> tuple[str, ...]:
    if not torch.cuda.is_available():
        raise EngineError(
            "the flavour tensorrt builds on the GPU that the engine is for, and PyTorch sees none here;"
            " build on a machine that has it, or ahead of time with --flavour rtx"
        )
    major, minor = torch.cuda.get_device_capability()
    target = 10 * major + minor
    if _wants_bfloat16(recipe) and target < AMPERE:
        raise ConfigError(
            f"{_wants_bfloat16(recipe)}: this GPU (compute capability {target}) has no bfloat16; use --fp16"
        )
    if recipe.tensorrt.hardware_compatible and target < AMPERE:
        raise ConfigError(
            f"--hardware-compatible is for GPUs from Ampere (80) on, and this one has {target}; leave it out"
        )
    return (str(target),)


def _ahead_targets(recipe: BuildRecipe, library: BuilderLibrary) -> tuple[str, ...]:
    targets = tuple(dict.fromkeys(recipe.rtx.sm))
    unknown = [target for target in targets if target not in library.targets]
    if unknown or not targets:
        raise ConfigError(
            f"--sm names {', '.join(unknown) or 'nothing'}; TensorRT for RTX {library.version} builds for"
            f" {', '.join(library.targets)}. GPUs of servers (90, 100) need --flavour tensorrt"
        )
    if _wants_bfloat16(recipe) and "75" in targets:
        raise ConfigError(
            f"{_wants_bfloat16(recipe)} and --sm 75: GPUs of that generation (T4, RTX 20) have no bfloat16; use --fp16"
        )
    return tuple(sorted(targets, key=int))


def _wants_bfloat16(recipe: BuildRecipe) -> str:
    """Return the option that asks for bfloat16; empty if there is none."""
    if recipe.precision == "bfloat16":
        return "--bf16"
    return "bf16 under [policy]" if "bfloat16" in recipe.policy.own_types(recipe.precision) else ""


def _serialised(graph: onnx.ModelProto) -> bytes:
    if graph.ByteSize() > LARGEST_PROTO:
        raise EngineError(f"the graph has {graph.ByteSize() / 1e9:.1f} GB; a file of more than 2 GB cannot be parsed")
    return bytes(graph.SerializeToString())


def _add_profiles(
    builder: "tensorrt.Builder", config: "tensorrt.IBuilderConfig", profiles: Sequence[EngineProfile], log: BuilderLog
) -> None:
    for number, profile in enumerate(profiles):
        made: Any = builder.create_optimization_profile()  # takes tuples, where the stubs want Dims
        for name, shapes in profile.items():
            made.set_shape(name, shapes.min, shapes.opt, shapes.max)
        if config.add_optimization_profile(made) < 0:
            raise EngineError(f"the builder refuses profile {number}: {log.reason}")


def _apply(recipe: BuildRecipe, config: "tensorrt.IBuilderConfig", library: BuilderLibrary) -> None:
    trt = library.trt
    config.builder_optimization_level = recipe.optimization_level
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # so that the engine inspector lists types of layers
    if recipe.workspace_gb:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, int(recipe.workspace_gb * GIB))
    flags = {"REFIT": recipe.refit or recipe.strip_weights, "STRIP_PLAN": recipe.strip_weights}
    if library.has_compatibility:
        flags["VERSION_COMPATIBLE"] = recipe.tensorrt.version_compatible
        if recipe.tensorrt.hardware_compatible:
            config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
    for name, wanted in flags.items():
        if wanted:
            config.set_flag(getattr(trt.BuilderFlag, name))


def _set_targets(config: Any, trt: Any, targets: Sequence[str]) -> None:
    """Only TensorRT for RTX has these calls."""
    config.num_compute_capabilities = len(targets)
    for i, target in enumerate(targets):
        if not config.set_compute_capability(getattr(trt.ComputeCapability, f"SM{target}"), i):
            raise EngineError(f"the builder refuses compute capability {target}")


def timing_cache_of(config: "tensorrt.IBuilderConfig", library: BuilderLibrary, path: Path | None) -> Any:
    """The cache that the build reads and fills, or None."""
    if path is None:
        return None
    if not library.has_timing_cache:
        raise ConfigError("--timing-cache does nothing for TensorRT for RTX, which times on the machine that runs")
    try:
        cache = config.create_timing_cache(path.read_bytes() if path.is_file() else b"")
    except OSError as e:
        raise EngineError(f"the timing cache {path} cannot be read ({e.strerror})") from e
    if cache is None:
        raise EngineError(f"the timing cache {path} cannot be used; name another file")
    if not config.set_timing_cache(cache, False):
        raise EngineError(f"the timing cache {path} is of another version or GPU; name another file")
    return cache


def _hint(recipe: BuildRecipe, library: BuilderLibrary) -> str:
    if library.builds_ahead and (recipe.refit or recipe.strip_weights):
        return "; TensorRT for RTX needs a GPU in the building machine for --refit and --strip-weights"
    if recipe.workspace_gb:
        return f"; the workspace is limited to {recipe.workspace_gb:g} GiB, does it need more?"
    return ""
