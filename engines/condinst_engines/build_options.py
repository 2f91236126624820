"""Options of an engine build, and how they change its recipe."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from condinst_deploy.contract.precision import Precision
from condinst_deploy.errors import ConfigError
from condinst_deploy.support.option_types import check_types
from condinst_engines.build_recipe import BuildRecipe, load_recipe
from condinst_engines.builder_library import BuilderLibrary
from condinst_engines.precision_policy import Quantized
from condinst_engines.ranges.range_images import images_of
from condinst_export.quantization.calibration_folder import check_calibration, check_headers
from condinst_export.quantization.calibration_options import calibration_from, check_calibration_folder

if TYPE_CHECKING:
    from condinst_engines.quantization.calibrate import Request


@dataclass(frozen=True)
class BuildOptions:
    """Options of an engine's build; None and False keep the recipe's values.

    Attributes:
        recipe: a recipe, the name of one of the package, or the path of a TOML file; None: the defaults.
        flavour: `tensorrt` or `rtx`; None: tensorrt if it is installed, else rtx.
        precision: float32, float16 or bfloat16; of an INT8 or FP8 engine what is not in 8 bits (None: float16).
        quantization: int8 or fp8: convolutions in 8 bits; takes `calibration`.
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
        calibration: folder of images. Ranges of half precision are checked on it (None: on a built-in set), and the
            ranges of 8 bits are found on it.
        calibration_images: most images that ranges of 8 bits are found on.
        calibration_method: mse, entropy or max.
        scales: manifest of a quantised engine of the same file, whose ranges are taken instead of new ones.
        report: folder for the report of a quantised engine's accuracy on images that were held out; None: no files.
        sensitivity: measure what each group of convolutions costs.
        keep_policy: TOML file for the policy that the range check comes to, as a recipe to edit.
        keep_onnx: file for the exact graph that the builder gets.
        log: file for everything that the builder says.
    """

    recipe: BuildRecipe | str | None = None
    flavour: str | None = None
    precision: Precision | None = None
    quantization: Quantized | None = None
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
    calibration_images: int | None = None
    calibration_method: str | None = None
    scales: Path | None = None
    report: Path | None = None
    sensitivity: bool = False
    keep_policy: Path | None = None
    keep_onnx: Path | None = None
    log: Path | None = None

    def __post_init__(self) -> None:
        """Check the types; the recipe checks the values.

        Raises:
            ConfigError: a value has a wrong type.
        """
        check_types(self)


def recipe_of(options: BuildOptions, library: BuilderLibrary) -> BuildRecipe:
    """The recipe with what the options set instead.

    Raises:
        ConfigError: the package has no such recipe, or the library does not offer what an option asks for.
        MissingFileError: the recipe's file does not exist.
    """
    named = options.recipe
    recipe = load_recipe(named) if isinstance(named, str) else named or BuildRecipe()
    recipe = _with_options(
        recipe,
        precision=options.precision,
        quantization=options.quantization,
        optimization_level=options.optimization_level,
        workspace_gb=options.workspace_gb,
        refit=options.refit or None,
        strip_weights=options.strip_weights or None,
    )
    recipe = _with_rtx(recipe, library, options.sm)
    recipe = _with_tensorrt(recipe, library, options.hardware_compatible, options.version_compatible)
    return replace(recipe, tensorrt=replace(recipe.tensorrt, plugins=False)) if options.no_plugins else recipe


def request_of(options: BuildOptions, recipe: BuildRecipe) -> "Request | None":
    """Return the request for a quantised build; None if nothing is quantised.

    Raises:
        ArtifactError: `scales` is no manifest of an engine.
        ConfigError: an option is missing or cannot be used.
        MissingFileError: the folder of images does not exist.
        ImageError: the folder of images has none, or the header of one that is used cannot be read.
    """
    kind = recipe.quantized
    given = {"--scales": options.scales, "--report": options.report, "--sensitivity": options.sensitivity or None}
    if options.calibration is not None and recipe.precision == "float32":
        raise ConfigError("--calibration is for half and 8-bit engines: float32 has no ranges to check; leave it out")
    asked_by = [] if kind is None else [f"--{kind}"]
    if options.calibration is not None:
        _check_range_images(options.calibration)
    calibration = calibration_from(
        options.calibration, options.calibration_images, options.calibration_method, asked_by, "--int8 or --fp8"
    )
    if kind is None or calibration is None:
        for name, value in given.items():
            if value is not None:
                raise ConfigError(f"{name} is for quantised engines; give --int8 or --fp8, too")
        return None
    check_calibration(calibration)
    # imported here: a mistake above does not wait for the ONNX library
    from condinst_engines.quantization.calibrate import Request, recorded_ranges

    if options.scales is not None:
        recorded_ranges(options.scales, kind)
    return Request(kind, calibration, options.scales, options.report, options.sensitivity)


def _check_range_images(folder: Path) -> None:
    """Check the folder that half precision is checked on, before the file is read.

    Raises:
        ConfigError: it is a file.
        MissingFileError: it does not exist.
        ImageError: it has no images, or the header of one that is used cannot be read.
    """
    check_calibration_folder(folder)
    check_headers(images_of(folder))


def _with_options(recipe: BuildRecipe, **options: object) -> BuildRecipe:
    given = {name: value for name, value in options.items() if value is not None}
    if "quantization" in given and recipe.precision == "float32":
        given.setdefault("precision", "float16")  # of what is not in 8 bits
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
