"""Options of an engine build, and how they change its recipe."""

from dataclasses import dataclass, replace
from pathlib import Path

from condinst_deploy.errors import ConfigError
from condinst_engines.build_recipe import BuildRecipe, load_recipe
from condinst_engines.builder_library import BuilderLibrary
from condinst_engines.policy import Precision


@dataclass(frozen=True)
class BuildOptions:
    """How an engine is built; None and False keep what the recipe says.

    Attributes:
        recipe: a recipe, the name of one of the package, or the path of a TOML file; None: the defaults.
        flavour: `tensorrt` or `rtx`; None: tensorrt if it is installed, else rtx.
        precision: float32, float16 or bfloat16.
        optimization_level: 0 (quick) to 5 (thorough).
        workspace_gb: largest scratch memory of a layer, in GiB.
        sm: rtx: compute capabilities to build for, for example 86.
        hardware_compatible: tensorrt: run on every GPU from Ampere on.
        version_compatible: tensorrt: run with later versions of the library.
        no_plugins: tensorrt: standard layers only, no kernels of this toolkit in the engine.
        refit: let weights be exchanged later.
        strip_weights: leave the weights out; they come by refitting.
        shapes: profiles MIN:OPT:MAX that come before the recipe's.
        timing_cache: tensorrt: file that keeps timings between builds.
        calibration: folder of images on which the ranges of half precision are checked; None: a built-in set.
        keep_policy: TOML file for the policy that the range check comes to, as a recipe to edit.
        keep_onnx: file for the exact graph that the builder gets.
        log: file for everything that the builder says.
    """

    recipe: BuildRecipe | str | None = None
    flavour: str | None = None
    precision: Precision | None = None
    optimization_level: int | None = None
    workspace_gb: float | None = None
    sm: tuple[str, ...] | None = None
    hardware_compatible: bool = False
    version_compatible: bool = False
    no_plugins: bool = False
    refit: bool = False
    strip_weights: bool = False
    shapes: tuple[str, ...] = ()
    timing_cache: Path | None = None
    calibration: Path | None = None
    keep_policy: Path | None = None
    keep_onnx: Path | None = None
    log: Path | None = None


def recipe_of(options: BuildOptions, library: BuilderLibrary) -> BuildRecipe:
    """The recipe with what the options set instead.

    Raises:
        ConfigError: there is no such recipe, or the library does not offer what an option asks for.
    """
    named = options.recipe
    recipe = load_recipe(named) if isinstance(named, str) else named or BuildRecipe()
    recipe = _with_options(
        recipe,
        precision=options.precision,
        optimization_level=options.optimization_level,
        workspace_gb=options.workspace_gb,
        refit=options.refit or None,
        strip_weights=options.strip_weights or None,
    )
    recipe = _with_rtx(recipe, library, options.sm)
    recipe = _with_tensorrt(recipe, library, options.hardware_compatible, options.version_compatible)
    return replace(recipe, tensorrt=replace(recipe.tensorrt, plugins=False)) if options.no_plugins else recipe


def _with_options(recipe: BuildRecipe, **options: object) -> BuildRecipe:
    given = {name: value for name, value in options.items() if value is not None}
    return replace(recipe, **given)  # type: ignore[arg-type]


def _with_rtx(recipe: BuildRecipe, library: BuilderLibrary, sm: tuple[str, ...] | None) -> BuildRecipe:
    if sm is None:
        return recipe
    if not library.builds_ahead:
        raise ConfigError("--sm is for --flavour rtx; full TensorRT builds for the GPU in this machine")
    targets = tuple(part.strip().lower().removeprefix("sm") for part in sm)
    return replace(recipe, rtx=replace(recipe.rtx, sm=targets))


def _with_tensorrt(recipe: BuildRecipe, library: BuilderLibrary, hardware: bool, version: bool) -> BuildRecipe:
    if not (hardware or version):
        return recipe
    if not library.has_compatibility:
        raise ConfigError(
            "--hardware-compatible and --version-compatible are for --flavour tensorrt;"
            " TensorRT for RTX builds for several GPUs with --sm"
        )
    settings = recipe.tensorrt
    changed = replace(
        settings,
        hardware_compatible=settings.hardware_compatible or hardware,
        version_compatible=settings.version_compatible or version,
    )
    return replace(recipe, tensorrt=changed)
