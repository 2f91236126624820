"""Build recipes: all settings of an engine, in one TOML file."""

from dataclasses import dataclass, field
from importlib.resources import files
from typing import Literal

from condinst_deploy.contract.precision import Precision
from condinst_deploy.errors import ConfigError
from condinst_deploy.support.toml_config import recipe_from_toml
from condinst_deploy.support.validation import Limits, check_choice, check_number
from condinst_engines.precision_policy import QUANTIZED, Policy, Quantized

SHORT = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}
"""Precisions as options and file names call them."""

Quantization = Literal["none", "int8", "fp8"]


@dataclass(frozen=True)
class RtxSettings:
    """Settings that only TensorRT for RTX has."""

    sm: tuple[str, ...] = ("86", "89", "120")  # compute capabilities: GeForce and RTX of 2020, 2022 and 2025


@dataclass(frozen=True)
class TensorrtSettings:
    """Settings that only full TensorRT has."""

    hardware_compatible: bool = False  # runs on every GPU from Ampere on, some kernels are slower
    version_compatible: bool = False  # runs with later versions of TensorRT
    plugins: bool = True  # fused kernels inside the engine, on GPUs from Ampere on


@dataclass(frozen=True)
class BuildRecipe:
    """One build; the defaults are float32 and the builder's own."""

    precision: Precision = "float32"
    quantization: Quantization = "none"  # int8 and fp8: convolutions in 8 bits, everything else by `precision`
    batches: tuple[str, ...] = ("1:8:8",)  # MIN:OPT:MAX images, a profile each; its sides are the model's own
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
        check_choice("quantization", self.quantization, Quantization)
        if self.quantization != "none" and self.precision == "float32":
            raise ConfigError(
                f"quantization is {self.quantization}; expected float16 or bfloat16 as precision beside it"
            )
        for kind in QUANTIZED:
            if getattr(self.policy, kind) and kind != self.quantization:
                raise ConfigError(f"policy.{kind} is for engines that are built with --{kind}; take these lines out")
        check_number("optimization_level", self.optimization_level, Limits(0, 5, whole=True))
        check_number("workspace_gb (GiB; 0: all of the GPU's memory)", self.workspace_gb, Limits(0, 1024, below=True))
        if not self.batches:
            raise ConfigError('batches is empty; expected MIN:OPT:MAX, for example ["1:1:8"]')
        for name, values in (("batches", self.batches), ("profiles", self.profiles), ("rtx.sm", self.rtx.sm)):
            if not all(isinstance(value, str) for value in values):
                raise ConfigError(f"{name} is {list(values)}; expected a list of texts in quotes")

    @property
    def quantized(self) -> Quantized | None:
        """The kind of 8 bits; None: there are none."""
        return None if self.quantization == "none" else self.quantization

    @property
    def short_name(self) -> str:
        """Return the name of this engine's precision in file names."""
        return self.quantized or SHORT[self.precision]


def load_recipe(name: str) -> BuildRecipe:
    """Read a recipe that comes with the package, or a TOML file.

    Raises:
        ConfigError: the package has none of that name, or it has settings that cannot be used.
        MissingFileError: the file does not exist.
    """
    return recipe_from_toml(BuildRecipe(), name, files("condinst_engines") / "recipes")
