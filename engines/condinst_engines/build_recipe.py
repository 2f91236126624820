"""Build recipes: all settings of an engine, in one TOML file."""

from dataclasses import dataclass, field
from importlib.resources import files

from condinst_deploy.errors import ConfigError
from condinst_deploy.support.toml_config import recipe_from_toml
from condinst_deploy.support.validation import Limits, check_choice, check_number
from condinst_engines.policy import Policy, Precision

SHORT = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}
"""Precisions as options and file names call them."""


@dataclass(frozen=True)
class RtxSettings:
    """What only TensorRT for RTX has."""

    sm: tuple[str, ...] = ("86", "89", "120")  # compute capabilities: GeForce and RTX of 2020, 2022 and 2025


@dataclass(frozen=True)
class TensorrtSettings:
    """What only full TensorRT has."""

    hardware_compatible: bool = False  # runs on every GPU from Ampere on, some kernels are slower
    version_compatible: bool = False  # runs with later versions of TensorRT
    plugins: bool = True  # fused kernels inside the engine, on GPUs from Ampere on


@dataclass(frozen=True)
class BuildRecipe:
    """One build; the defaults are float32 and the builder's own."""

    precision: Precision = "float32"
    batches: tuple[str, ...] = ("1:1:8",)  # MIN:OPT:MAX images, a profile each; its sides are the model's own
    profiles: tuple[str, ...] = ()  # MIN:OPT:MAX of the images, sides and all; they take the place of batches
    optimization_level: int = 3  # 0 quick to 5 thorough
    workspace_gb: float = 0.0  # largest scratch memory of a layer, GiB; 0: all of the GPU's
    refit: bool = False  # weights can be exchanged later
    strip_weights: bool = False  # the plan has no weights; they come by refitting
    policy: Policy = field(default_factory=Policy)
    rtx: RtxSettings = field(default_factory=RtxSettings)
    tensorrt: TensorrtSettings = field(default_factory=TensorrtSettings)

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ConfigError: one is outside its range.
        """
        check_choice("precision", self.precision, Precision)
        check_number("optimization_level", self.optimization_level, Limits(0, 5, whole=True))
        check_number("workspace_gb (GiB; 0: all of the GPU's memory)", self.workspace_gb, Limits(0, 1024, below=True))
        if not self.batches:
            raise ConfigError('batches is empty; expected MIN:OPT:MAX, for example ["1:1:8"]')
        for name, values in (("batches", self.batches), ("profiles", self.profiles), ("rtx.sm", self.rtx.sm)):
            if not all(isinstance(value, str) for value in values):
                raise ConfigError(f"{name} is {list(values)}; expected a list of texts in quotes")


def load_recipe(name: str) -> BuildRecipe:
    """Read a recipe that comes with the package, or a TOML file.

    Raises:
        ConfigError: there is none of that name, or it has settings that cannot be used.
    """
    return recipe_from_toml(BuildRecipe(), name, files("condinst_engines") / "recipes")
