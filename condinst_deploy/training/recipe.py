"""Recipes: all settings of a training run, in one TOML file."""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from condinst_deploy.contract import Family
from condinst_deploy.contract.model_settings import SIDE
from condinst_deploy.contract.precision import Precision
from condinst_deploy.data.augmentation import Augmentation
from condinst_deploy.errors import ConfigError, SettingError
from condinst_deploy.model.config import CondInstConfig
from condinst_deploy.model.loss_plan import LossSettings
from condinst_deploy.support.option_types import check_types
from condinst_deploy.support.toml_config import recipe_from_toml
from condinst_deploy.support.validation import Limits, check_choice, check_number, merged
from condinst_deploy.training.recipe_names import RECIPES

PUBLISHED: dict[Family, str] = {"mmdet": "condinst_r50_1x", "adelaidet": "adelaidet_r50_1x"}
"""The recipe that each family's own ones vary."""

OptimizerKind = Literal["sgd", "adamw", "muon"]
Decay = Literal["steps", "cosine", "linear"]

UNUSED: dict[OptimizerKind, tuple[str, ...]] = {
    "sgd": ("betas", "muon_factor"),
    "adamw": ("momentum", "muon_factor"),
    "muon": (),
}
"""Settings of the optimizer that its kind does not use."""

DECAY_RATE = Limits(0, 1, below=True)
"""Range of momentum and betas, below 1: at 1 past gradients would never decay."""

MOST_WORKERS, MOST_ITERATIONS, MOST_IN_BATCH = 256, 1_000_000_000, 65_536

MOST_SIDES = 1_000
"""Sizes that a recipe lists."""

NUMBERS = {
    "flip": Limits(0, 1),
    "seed": Limits(0, 2**40, whole=True),  # times a constant, it has to fit into 64 bits
    "evaluate_every": Limits(0, whole=True),
    "checkpoint_every": Limits(1, whole=True),
    "log_every": Limits(1, whole=True),
    "late_iterations": Limits(0, whole=True),
    "keep_checkpoints": Limits(1, 1_000, whole=True),
    "patience": Limits(0, whole=True),
}
"""Limits of the recipe's own numbers."""

SHARES: dict[str, Callable[[float], float]] = {
    "cosine": lambda progress: 0.5 * (1 + math.cos(math.pi * progress)),
    "linear": lambda progress: 1 - progress,
}
"""Decays without steps: progress after the warm-up, 0 to 1, -> share of the full learning rate."""


@dataclass(frozen=True)
class DataSettings:
    """Paths of the training data, relative to the current directory; or the generated shapes set."""

    train_annotations: str = ""
    train_images: str = ""
    val_annotations: str = ""
    val_images: str = ""
    shapes: bool = False  # generate the shapes set below `data/shapes` and use it
    keep_empty: bool = False  # train on images without instances, too
    workers: int = 2  # processes that decode images, for each process that trains
    prefetch: int = 2  # batches that each of them has ready
    group: int = 1  # neighbours in a batch that have the same orientation; 1: as they come

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            ConfigError: one has a wrong type or is outside its range.
        """
        check_types(self, "data.")
        check_number("data.workers", self.workers, Limits(0, MOST_WORKERS, whole=True))
        check_number("data.prefetch", self.prefetch, Limits(1, MOST_WORKERS, whole=True))
        check_number("data.group", self.group, Limits(1, MOST_IN_BATCH, whole=True))


@dataclass(frozen=True)
class OptimizerSettings:
    """SGD with momentum, AdamW, or Muon for the inner convolutions and AdamW for the rest."""

    kind: OptimizerKind = "sgd"
    learning_rate: float = 0.01
    muon_factor: float = 1.0  # Muon's learning rate, in AdamW's
    momentum: float = 0.9
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 1e-4
    decay_norms_and_biases: bool = True
    decay_norms: bool = True  # False: norms are spared, biases are not
    clip_norm: float | None = None  # largest norm of all gradients together
    average_decay: float = 0.0  # of the moving average of the weights, which is evaluated and exported; 0: none

    def __post_init__(self) -> None:
        """Check the kind and the numbers.

        Raises:
            ConfigError: the kind is unknown, a number is outside its range, or the kind does not use a setting.
        """
        check_types(self, "optimizer.")
        check_choice("optimizer.kind", self.kind, OptimizerKind)
        for name in ("learning_rate", "muon_factor"):
            check_number(f"optimizer.{name}", getattr(self, name), Limits(0, open=True))
        check_number("optimizer.momentum", self.momentum, DECAY_RATE)
        check_number("optimizer.weight_decay", self.weight_decay, Limits(0))
        check_number("optimizer.average_decay", self.average_decay, DECAY_RATE)
        if self.clip_norm is not None:
            check_number("optimizer.clip_norm", self.clip_norm, Limits(0, open=True))
        for i, beta in enumerate(self.betas):
            check_number(f"optimizer.betas[{i}]", beta, DECAY_RATE)
        for name in UNUSED[self.kind]:
            value, default = getattr(self, name), getattr(type(self), name)
            if value != default:
                raise SettingError(
                    f"optimizer.{name}",
                    f"is {value}, which the optimizer {self.kind} does not use; leave it out, or set it to {default}",
                )


@dataclass(frozen=True)
class ScheduleSettings:
    """Length of the run and course of the learning rate."""

    iterations: int = 90_000
    batch_size: int = 16
    warmup_iterations: int = 1_000
    warmup_factor: float = 0.001  # share of the learning rate at the first iteration
    decay: Decay = "steps"  # the other two end at 0
    steps: tuple[int, ...] = (60_000, 80_000)
    step_factor: float = 0.1

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            ConfigError: a number is outside its range, or the decay is unknown.
        """
        check_types(self, "schedule.")
        check_number("schedule.iterations", self.iterations, Limits(1, MOST_ITERATIONS, whole=True))
        check_number("schedule.batch_size", self.batch_size, Limits(1, MOST_IN_BATCH, whole=True))
        check_number("schedule.warmup_iterations", self.warmup_iterations, Limits(0, MOST_ITERATIONS, whole=True))
        for name in ("warmup_factor", "step_factor"):
            check_number(f"schedule.{name}", getattr(self, name), Limits(0, 1))
        for i, step in enumerate(self.steps):
            check_number(f"schedule.steps[{i}]", step, Limits(0, whole=True))
        check_choice("schedule.decay", self.decay, Decay)
        if self.decay != "steps" and self.warmup_iterations >= self.iterations:
            raise SettingError(
                "schedule.warmup_iterations",
                f"is {self.warmup_iterations} of {self.iterations} iterations; the {self.decay} decay needs some after"
                " the warm-up",
            )

    def learning_rate(self, iteration: int, full: float, family: Family = "mmdet") -> float:
        """The rate of an iteration, counted from 0.

        A linear warm-up of n iterations reaches the full rate at iteration n - 1 in mmdetection (mmengine's `LinearLR`)
        and at iteration n in AdelaiDet (detectron2's `WarmupMultiStepLR`).
        """
        if self.decay == "steps":
            rate = full * self.step_factor ** sum(iteration >= step for step in self.steps)
        else:
            progress = (iteration - self.warmup_iterations) / (self.iterations - self.warmup_iterations)
            rate = full * SHARES[self.decay](min(max(progress, 0.0), 1.0))
        full_at = self.warmup_iterations - (family == "mmdet")
        if iteration < full_at:
            rate *= self.warmup_factor + (1 - self.warmup_factor) * iteration / full_at
        return rate


@dataclass(frozen=True)
class StartSettings:
    """Initialisation of the weights."""

    frozen_stages: int = 2  # the stem and layer1
    norm_eval: bool = True  # the backbone's norms keep their statistics
    norm_affine: bool = True  # ... but learn their scale and shift
    controller_std: float = 0.01
    box_bias: float = 0.0
    zero_residual: bool = False  # every residual block begins as the identity: from scratch, learning starts sooner
    backbone: str = ""  # file with a ResNet of torchvision's or of detectron2's names; "torchvision": fetched

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            ConfigError: one has a wrong type or is outside its range.
        """
        check_types(self, "start.")
        check_number("start.frozen_stages", self.frozen_stages, Limits(0, 5, whole=True))
        check_number("start.controller_std", self.controller_std, Limits(0))
        check_number("start.box_bias", self.box_bias, Limits())


@dataclass(frozen=True)
class ExecutionSettings:
    """Execution of steps. These settings do not decide which images are seen; a resumed run can change them."""

    precision: Precision = "float32"  # of the convolutional part; losses are always float32
    accumulate: int = 1  # parts of a process's share of the batch that run one after the other
    channels_last: bool = True  # where the model is wide enough (docs/decisions/0012-channels-last-in-training.md)
    compile: bool = False  # torch.compile for the convolutional part
    sync_norms: bool = False  # learning norms of backbone and neck see the images of all processes; GPUs only
    timeout: float = 1800.0  # seconds that processes wait for each other

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ConfigError: one has a wrong type or is outside its range.
        """
        check_types(self, "execution.")
        check_choice("execution.precision", self.precision, Precision)
        check_number("execution.accumulate", self.accumulate, Limits(1, MOST_IN_BATCH, whole=True))
        check_number("execution.timeout", self.timeout, Limits(1, 86_400))


@dataclass(frozen=True)
class Recipe:
    """One training run; the defaults are mmdetection's `condinst_r50_fpn_ms-poly-90k_coco_instance`."""

    model: CondInstConfig = field(default_factory=CondInstConfig)
    data: DataSettings = field(default_factory=DataSettings)
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    schedule: ScheduleSettings = field(default_factory=ScheduleSettings)
    start: StartSettings = field(default_factory=StartSettings)
    losses: LossSettings = field(default_factory=LossSettings)
    execution: ExecutionSettings = field(default_factory=ExecutionSettings)
    augment: Augmentation = field(default_factory=Augmentation)
    short_sides: tuple[int, ...] = (640, 672, 704, 736, 768, 800)
    late_short_sides: tuple[int, ...] = ()  # those of the last iterations; none: the same to the end
    late_iterations: int = 0  # how many of them: most is learnt cheaply from small images, outlines from large ones
    flip: float = 0.5
    seed: int = 0
    evaluate_every: int = 10_000  # iterations; 0: only at the end
    checkpoint_every: int = 1_000
    log_every: int = 20
    keep_checkpoints: int = 2  # last.pth and the ones before it
    patience: int = 0  # evaluations without a better mask AP after which the run ends; 0: it never ends early
    tensorboard: bool = True  # write scalars for TensorBoard

    def __post_init__(self) -> None:
        """Check that the parts go together.

        Raises:
            ConfigError: losses and model are of different families, the late iterations do not fit, or a number is
                outside its range.
        """
        check_types(self)
        for name, limits in NUMBERS.items():
            check_number(name, getattr(self, name), limits)
        for name in ("short_sides", "late_short_sides"):
            sides = getattr(self, name)
            if len(sides) > MOST_SIDES:
                raise ConfigError(f"{name} has {len(sides)} sizes; expected at most {MOST_SIDES}")
            for i, side in enumerate(sides):
                check_number(f"{name}[{i}]", side, SIDE)
        if self.schedule.batch_size % self.data.group:
            raise ConfigError(
                f"data.group is {self.data.group}; expected a divisor of schedule.batch_size,"
                f" which is {self.schedule.batch_size}"
            )
        if not self.short_sides:
            raise ConfigError("short_sides is empty; expected at least one size, in pixels")
        if self.losses.family != self.model.family:
            raise ConfigError(
                f"losses.family is {self.losses.family} and the model is of the family {self.model.family};"
                " expected the same"
            )
        self._check_iterations()

    def _check_iterations(self) -> None:
        if self.patience and not self.evaluate_every:
            raise ConfigError(
                f"patience is {self.patience} evaluations, and evaluate_every is 0 (only at the end):"
                " set evaluate_every, or patience = 0"
            )
        if not 0 <= self.late_iterations <= self.schedule.iterations:
            raise ConfigError(
                f"late_iterations is {self.late_iterations}; expected 0 to schedule.iterations,"
                f" which is {self.schedule.iterations}"
            )
        if self.late_iterations and not self.late_short_sides:
            raise ConfigError(f"late_iterations is {self.late_iterations}; expected sizes for them in late_short_sides")

    def learning_rate(self, iteration: int) -> float:
        """The rate of an iteration, counted from 0, by the rules of the model's family."""
        return self.schedule.learning_rate(iteration, self.optimizer.learning_rate, self.model.family)

    def with_model(self, model: CondInstConfig) -> "Recipe":
        """This recipe for a given model, whose family decides about losses and norms.

        A recipe of another family takes from the published one of the model's: `losses.family`,
        `start.norm_affine` and `optimizer.decay_norms`, and the cap on masks if it has its own family's published one.
        """
        if model.family == self.model.family:
            return replace(self, model=model)
        own, other = (load_recipe(PUBLISHED[family]) for family in (self.model.family, model.family))
        return replace(
            self,
            model=model,
            optimizer=replace(self.optimizer, decay_norms=other.optimizer.decay_norms),
            start=replace(self.start, norm_affine=other.start.norm_affine),
            losses=other.losses if self.losses == own.losses else replace(self.losses, family=model.family),
        )

    def with_sizes_of(self, model: CondInstConfig, inference: bool = True, training: bool = True) -> "Recipe":
        """This recipe with the input sizes of a trained model.

        Args:
            model: whose sizes are taken.
            inference: take its sizes of inference.
            training: bring the sizes of training to the same proportion, whole pixels.
        """
        sides = {name: getattr(model.preprocessing, name) for name in ("short_side", "long_side", "pad_divisor")}
        own = self.model.preprocessing
        changed = self
        if inference:
            changed = replace(self, model=replace(self.model, preprocessing=replace(own, **sides)))
        if inference and training:
            factor = sides["short_side"] / own.short_side
            short, late = (
                tuple(dict.fromkeys(max(1, round(side * factor)) for side in each))
                for each in (self.short_sides, self.late_short_sides)
            )
            changed = replace(changed, short_sides=short, late_short_sides=late)
        return changed

    def of_length(self, iterations: int) -> "Recipe":
        """This recipe for a run of another length.

        Late iterations keep their share of the run. The warm-up stays as long as it is where it fits; one as long as
        the run, or longer, ends before the last iteration, which has the full rate. Steps of the decay stay where
        they are.

        Raises:
            ConfigError: it is no length.
        """
        warmup = max(0, min(self.schedule.warmup_iterations, iterations - 1))
        schedule = replace(self.schedule, iterations=iterations, warmup_iterations=warmup)
        late = round(self.late_iterations * iterations / self.schedule.iterations)
        return replace(self, schedule=schedule, late_iterations=late)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for a checkpoint."""
        return asdict(self)


def load_recipe(name: str) -> Recipe:
    """Read a recipe that comes with the package, or a TOML file.

    A recipe may begin with `base = "NAME"`, a recipe of the package; it then says only what is different.

    Raises:
        ConfigError: the package has none of that name, or it has settings that cannot be used.
        MissingFileError: the file does not exist.
    """
    return recipe_from_toml(Recipe(), name, RECIPES)


def recipe_from_dict(values: object) -> Recipe:
    """Build a recipe from plain values; what is left out keeps its default.

    Raises:
        ConfigError: a setting is unknown or has the wrong type.
    """
    return merged(Recipe(), values)
