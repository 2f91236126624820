"""An exported file becomes an engine file: read, convert, build, describe, write."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import onnx

from condinst_deploy.contract import ModelManifest
from condinst_deploy.contract.artifacts import ENGINE
from condinst_deploy.contract.engine_manifest import AMPERE, EngineManifest, host, write_engine
from condinst_deploy.contract.engine_ranges import CheckedRanges
from condinst_deploy.contract.quantization import HeldOutAgreement, Quantization
from condinst_deploy.errors import EngineError, OutputError
from condinst_deploy.support.atomic_write import atomic_path, check_writable
from condinst_deploy.support.digests import sha256_of, sha256_of_bytes
from condinst_deploy.support.validation import printable
from condinst_deploy.support.versions import installed_versions
from condinst_engines.build_files import EngineFiles
from condinst_engines.build_recipe import BuildRecipe
from condinst_engines.builder_library import BuilderLibrary
from condinst_engines.onnx_input import load_onnx, manifest_of, with_lifted_constants
from condinst_engines.plan_builder import (
    BuiltEngine,
    Surroundings,
    build_plan,
    graph_for_builder,
    plugin_graph_for_builder,
    targets_of,
)
from condinst_engines.plugins import register_plugins
from condinst_engines.plugins.names import LOWEST_CAPABILITY
from condinst_engines.profiles import profiles_for, remark_on
from condinst_engines.quantization.calibrate import Request, calibrated, earlier_record
from condinst_engines.quantization.cost_report import (
    METRICS,
    GroupCost,
    judged,
    ranked,
    sensitivity,
    worst_layers,
    write_report,
)
from condinst_engines.quantization.insert import Scales
from condinst_engines.quantization.proof import asked_convolutions
from condinst_engines.quantization.requests import described_qdq
from condinst_engines.ranges.check import RangeCheck
from condinst_engines.ranges.decide import Setting
from condinst_engines.ranges.range_images import RangeImages
from condinst_engines.rounding import rounded
from condinst_export.quantization.calibration_folder import few_images

DEFAULT_FOLDER = Path("engines/build")
"""Default folder of engines, relative to the current directory."""

HANDLED_SHOWN = 20


class Source(NamedTuple):
    """The exported file, as it was when it was read."""

    name: str
    sha256: str


def engine_from_onnx(
    files: EngineFiles,
    recipe: BuildRecipe,
    library: BuilderLibrary,
    surroundings: Surroundings,
    shapes: Sequence[str] = (),
) -> tuple[Path, EngineManifest]:
    """Build an engine and write it with its manifest.

    Args:
        files: what is read and written.
        recipe: what decides the engine.
        library: the builder.
        surroundings: the other files, and progress.
        shapes: profiles that come before the recipe's.

    Returns:
        The engine's absolute path, and its manifest.

    Raises:
        ArtifactError: the exported file cannot be used.
        ConfigError, EngineError, BackendError: it cannot be built so, or half precision cannot hold its ranges.
        ImageError: an image of `files.calibration` cannot be read.
        OutputError: a file cannot be written.
        KeyboardInterrupt: Ctrl-C; nothing was written.
    """
    proto = with_lifted_constants(load_onnx(files.source))
    model = manifest_of(proto, files.source)
    _check_unquantised(proto, files, surroundings)
    if model.precision != "float32":
        raise EngineError(f"{files.source} is in {model.precision} already; give the file that condinst-export wrote")
    profiles = profiles_for(model, recipe, shapes)
    if remark := remark_on(model, recipe, profiles):
        surroundings.on_note(remark)
    path = files.engine or default_engine_path(files.source, recipe, library)
    report = files.request.report if files.request is not None else None
    metrics = None if report is None else report / METRICS
    _check_writable(path, files.keep_onnx, files.keep_policy, surroundings.timing_cache, metrics)
    source = Source(printable(files.source.name), sha256_of(files.source))
    earlier = None
    if files.request is not None:  # checked before the range check, which can take minutes
        files.request.images(model)
        earlier = earlier_record(files.request, source.sha256)
    recipe, ranges = with_checked_ranges(proto, RangeImages(model, files.calibration), recipe, library, surroundings)
    scales, record = _scales(proto, model, files.request, recipe, earlier, surroundings)
    graph, plugins = graph_and_plugins(proto, recipe, library, surroundings, scales)
    built = build_plan(graph, profiles, recipe, library, surroundings)
    if scales is not None and record is not None:
        record = replace(record, agreement=_judged(proto, files, recipe, scales, surroundings))
    manifest = _manifest(built, replace(model, precision=recipe.precision), recipe, library, source)
    manifest = replace(manifest, plugins=plugins, ranges=ranges, quantization=record)
    with ExitStack() as kept:
        if files.keep_onnx is not None:
            onnx.save(graph, str(kept.enter_context(atomic_path(files.keep_onnx))))
        if files.keep_policy is not None:
            text = recipe.policy.to_toml(recipe.precision)
            kept.enter_context(atomic_path(files.keep_policy)).write_text(text, encoding="utf-8")
        write_engine(path.absolute(), built.plan, manifest)
    keep_timings(built.timings, surroundings)
    return path.absolute(), manifest


def _check_unquantised(proto: onnx.ModelProto, files: EngineFiles, surroundings: Surroundings) -> None:
    """Say what the file has in 8 bits already; refuse to quantise it again."""
    found = described_qdq(proto)
    if found and files.request is not None:
        raise EngineError(f"{files.source}: {found}; --{files.request.kind} quantises float32 files of condinst-export")
    if found:
        surroundings.on_note(f"{found}: its convolutions are built in 8 bits, and the engine is checked for them")


def _scales(
    proto: onnx.ModelProto,
    model: ModelManifest,
    request: Request | None,
    recipe: BuildRecipe,
    earlier: Quantization | None,
    surroundings: Surroundings,
) -> tuple[Scales | None, Quantization | None]:
    """Ranges of a quantised build, and their record."""
    if request is None:
        return None, None

    def on_share(share: float) -> None:
        surroundings.on_progress(share, "calibrating")

    scales, record = calibrated(proto, model, request, recipe, earlier, on_share)
    surroundings.on_note(f"{record}")
    return scales, record


def _judged(
    proto: onnx.ModelProto, files: EngineFiles, recipe: BuildRecipe, scales: Scales, surroundings: Surroundings
) -> HeldOutAgreement:
    """Run the quantised graph on the held-out images, say what it costs, and write the report that was asked for."""
    request = files.request
    assert request is not None
    images = request.images(manifest_of(proto, files.source)).held_out

    def simulated(some: Scales) -> onnx.ModelProto:
        return rounded(graph_for_builder(proto, recipe, some))

    found = judged(proto, simulated(scales), images, lambda share: surroundings.on_progress(share, "judging"))
    surroundings.on_note(f"{found.agreement}")
    if few := few_images(found.agreement.images):
        surroundings.on_note(few)
    if not found.agreement.reference:
        if request.report is not None or request.sensitivity:
            surroundings.on_note("no report: nothing can be compared; give images of the kind that the model finds")
        return found.agreement
    costs: list[GroupCost] = []
    if request.sensitivity:
        names = list(asked_convolutions(graph_for_builder(proto, recipe, scales)))
        for cost in sensitivity(found, names, scales, simulated, images):
            costs.append(cost)
            surroundings.on_progress(len(costs) / len(names), f"measuring {cost.group}")
        for cost in ranked(costs):
            surroundings.on_note(f"  {cost}")
    if request.report is not None:
        layers = worst_layers(proto, simulated(scales), images)
        path = write_report(request.report, request.kind, found, images, layers, costs)
        surroundings.on_note(f"report: {path}")
    return found.agreement


def with_checked_ranges(
    proto: onnx.ModelProto,
    images: RangeImages,
    recipe: BuildRecipe,
    library: BuilderLibrary,
    surroundings: Surroundings,
) -> tuple[BuildRecipe, CheckedRanges | None]:
    """The recipe with the policy that the range check of a half build comes to, and what it measured.

    Raises:
        EngineError: a node's tensors cannot be held, and it cannot be moved.
        ImageError: an image of the folder cannot be read.
    """
    if recipe.precision == "float32":
        return recipe, None
    oldest = min(int(target) for target in targets_of(recipe, library))
    setting = Setting(recipe.precision, recipe.policy, "bf16" if oldest >= AMPERE else "fp32")
    check = RangeCheck(proto, images, setting, lambda share: surroundings.on_progress(share, "checking ranges"))
    policy, ranges = check.run()
    if not ranges.blocks and ranges.handled:
        nodes = ", ".join(node.node for node in ranges.handled[:HANDLED_SHOWN])
        raise EngineError(
            f"no node is left in {recipe.precision}: all had to be moved ({nodes}); build with --bf16 or --fp32."
            " No engine was built"
        )
    surroundings.on_note(f"ranges: {ranges}")
    for node in ranges.handled[:HANDLED_SHOWN]:
        surroundings.on_note(f"  {node}")
    if len(ranges.handled) > HANDLED_SHOWN:
        surroundings.on_note(
            f"  {len(ranges.handled) - HANDLED_SHOWN} more nodes are handled; the manifest and --keep-policy name all"
        )
    return replace(recipe, policy=policy), ranges


def keep_timings(timings: bytes, surroundings: Surroundings) -> None:
    """Write the timing cache; the engine is there already, so that a failure is a remark."""
    if not timings or surroundings.timing_cache is None:
        return
    try:
        with atomic_path(surroundings.timing_cache) as temporary:
            temporary.write_bytes(timings)
    except OutputError as e:
        surroundings.on_note(f"the timing cache was not kept: {e}")


def _check_writable(*paths: Path | None) -> None:
    """Find out before the build, which may take long; nothing stays behind.

    Raises:
        OutputError: a file cannot be made there.
    """
    for path in paths:
        if path is not None:
            check_writable(path)


def graph_and_plugins(
    proto: onnx.ModelProto,
    recipe: BuildRecipe,
    library: BuilderLibrary,
    surroundings: Surroundings,
    scales: Scales | None = None,
) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """The builder's graph and its plugins; they are registered."""
    if not library.has_plugins or not recipe.tensorrt.plugins:
        return graph_for_builder(proto, recipe, scales), ()
    targets = targets_of(recipe, library)
    if min(int(target) for target in targets) < LOWEST_CAPABILITY:
        surroundings.on_note(f"no plugins: the kernels are for sm_{LOWEST_CAPABILITY} on, this is {', '.join(targets)}")
        return graph_for_builder(proto, recipe, scales), ()
    rewritten = plugin_graph_for_builder(proto, recipe, scales)
    for reason in rewritten.refused:
        surroundings.on_note(f"no plugin for {reason}")
    register_plugins(library)
    return rewritten.proto, rewritten.plugins


def default_engine_path(source: Path, recipe: BuildRecipe, library: BuilderLibrary) -> Path:
    """`engines/build/<stem>.<flavour>.<precision>.sm<targets>.engine`, or `ampereplus` for the targets."""
    targets = "sm" + "-".join(targets_of(recipe, library))
    if _hardware_compatible(recipe, library):
        targets = "ampereplus"
    name = f"{source.stem}.{library.name}.{recipe.short_name}.{targets}{ENGINE}"
    return DEFAULT_FOLDER / name


def _manifest(
    built: BuiltEngine, model: ModelManifest, recipe: BuildRecipe, library: BuilderLibrary, source: Source
) -> EngineManifest:
    return EngineManifest(
        flavour=library.name,
        library_version=library.version,
        precision=recipe.precision,
        found=built.found,
        targets=built.targets,
        tensors=built.tensors,
        profiles=built.profiles,
        model=model,
        onnx=source.name,
        onnx_sha256=source.sha256,
        plan_sha256=sha256_of_bytes(built.plan),
        plan_bytes=len(built.plan),
        hardware_compatible=_hardware_compatible(recipe, library),
        version_compatible=library.has_compatibility and recipe.tensorrt.version_compatible,
        refittable=recipe.refit or recipe.strip_weights,
        weights_stripped=recipe.strip_weights,
        build_seconds=round(built.seconds, 3),
        host=host(),
        tools=_tools(library),
    )


def _hardware_compatible(recipe: BuildRecipe, library: BuilderLibrary) -> bool:
    return library.has_compatibility and recipe.tensorrt.hardware_compatible


def _tools(library: BuilderLibrary) -> dict[str, str]:
    return {library.trt.__name__: library.version} | installed_versions(("condinst-deploy", "onnx", "onnx-ir"))
