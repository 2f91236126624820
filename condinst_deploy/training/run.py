"""The state of a training run, one step of it, and its checkpoints."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from condinst_deploy.contract import ModelManifest
from condinst_deploy.data.transforms import TrainingBatch
from condinst_deploy.errors import ConfigError
from condinst_deploy.model.boxinst import similar_neighbours
from condinst_deploy.model.checkpoints import own_content, write_checkpoint
from condinst_deploy.model.condinst import CondInst
from condinst_deploy.model.loss_plan import Draw, Normalisers, Part, Plan, normalisers_of, plan_step, sums_of
from condinst_deploy.model.losses import Losses
from condinst_deploy.training.averaging import WeightAverage
from condinst_deploy.training.data_record import DataRecord
from condinst_deploy.training.loss_module import LossModule
from condinst_deploy.training.loss_scale import LossScale
from condinst_deploy.training.optimizers import Optimizer
from condinst_deploy.training.ranks import ALONE, Ranks
from condinst_deploy.training.recipe import Recipe

MASK_DRAWS = 1
"""Keeps the random numbers that choose masks apart from those that transform the image of the same position."""


class LossesNotFinite(ConfigError):
    """The losses of a step are NaN or infinite; weights and statistics are those before it."""


@dataclass
class TrainingRun:
    """A model that learns; everything that a checkpoint has to keep is here."""

    recipe: Recipe
    model: CondInst
    manifest: ModelManifest
    optimizer: Optimizer
    device: torch.device
    ranks: Ranks = ALONE
    iteration: int = 0  # steps done
    note: str = ""  # one sentence on where the weights began
    average: WeightAverage | None = None
    scale: LossScale | None = None
    data: DataRecord | None = None  # what identifies the data; None: not known
    losses: LossModule = field(init=False)
    _wrapped: nn.Module | None = field(init=False, default=None)
    _before: list[Tensor] = field(init=False, default_factory=list)  # statistics of norms before the step

    def __post_init__(self) -> None:
        """Make the parts that follow from the others."""
        self.losses = LossModule(self.model, self.recipe)
        if self.recipe.execution.precision == "float16" and self.scale is None:
            self.scale = LossScale()
        if self.recipe.optimizer.average_decay > 0 and self.average is None:
            self.average = WeightAverage(self.model, self.recipe.optimizer.average_decay)

    @property
    def evaluated(self) -> CondInst:
        """The model that is evaluated and exported: the average where there is one."""
        return self.model if self.average is None else self.average.model

    def step(self, *parts: TrainingBatch) -> Losses:
        """One step on this process's share of a batch, in one or several parts; returns the losses before it.

        The losses are those of the whole batch of all processes.

        Raises:
            LossesNotFinite: in some process.
            DistributedError: another process is lost. The run can be saved after `undo`.
        """
        self._set_rate()
        self.model.train()
        self._before = [x.clone() for x in self._statistics()]
        on_device = [part.to(self.device) for part in parts]
        plans, normalisers = self._planned(on_device)
        self.optimizer.zero_grad(set_to_none=True)
        sums: list[Tensor] = []
        with self.ranks.together():
            for i, (part, plan) in enumerate(zip(on_device, plans, strict=True)):
                with self._exchange(last=i + 1 == len(parts)):
                    terms = self._module()(part, plan, normalisers)
                    (torch.stack(list(terms.values())).sum() * self._factor()).backward()
                sums.append(torch.stack([value.detach() for value in terms.values()]))
        values = self.ranks.average(torch.stack(sums).sum(dim=0).to("cpu", torch.float64))
        losses = Losses(**dict(zip(terms, values, strict=True)))
        self._check_finite(losses, parts)
        self._update()
        self.iteration += 1
        self._before = []
        return losses

    def undo(self) -> None:
        """Forget a step that did not end: statistics of norms are those before it, weights have not changed yet."""
        with torch.no_grad():
            for own, before in zip(self._statistics(), self._before, strict=False):
                own.copy_(before)

    def average_statistics(self) -> None:
        """Give all processes the means of their norms' statistics, which each learns from its own images.

        Raises:
            DistributedError: another process is lost.
        """
        own = self._statistics()
        if self.ranks.size > 1 and own:
            means = self.ranks.average(torch.cat([x.flatten() for x in own]))
            with torch.no_grad():
                for x, mean in zip(own, means.split([x.numel() for x in own]), strict=True):
                    x.copy_(mean.reshape(x.shape))
            if self.average is not None:
                self.average.copy_statistics(self.model)

    def save(self, path: Path) -> None:
        """Write a checkpoint that both `resumed_run` and `load_model` read; `load_model` gets the average."""
        content = own_content(self.evaluated, self.manifest)
        content["training"] = {
            "iteration": self.iteration,
            "recipe": self.recipe.to_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        if self.data is not None:
            content["training"]["data"] = self.data.to_dict()
        if self.scale is not None:
            content["training"]["scale"] = self.scale.state_dict()
        if self.average is not None:
            content["training"]["weights"] = own_content(self.model, self.manifest)["state_dict"]
        write_checkpoint(path, content)

    def _set_rate(self) -> None:
        rate = self.recipe.learning_rate(self.iteration)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group.get("factor", 1.0)

    def _statistics(self) -> list[Tensor]:
        """Running means and variances of the norms that learn them."""
        return [
            statistic
            for module in self.model.modules()
            if isinstance(module, nn.BatchNorm2d | nn.SyncBatchNorm) and module.training
            for statistic in (module.running_mean, module.running_var)
            if statistic is not None
        ]

    def _planned(self, parts: Sequence[TrainingBatch]) -> tuple[list[Plan], Normalisers]:
        """Return the plan of each part, and the divisors of the whole step."""
        settings = self.recipe.losses
        colours = settings.colours
        learnt = [
            Part(
                part.targets,
                (part.images.shape[2], part.images.shape[3]),
                None if colours is None else similar_neighbours(part.images, part.image_sizes, colours),
            )
            for part in parts
        ]
        plans = plan_step(learnt, settings, self._draw(parts), self.iteration)
        sums = torch.stack([sums_of(plan, part, settings) for plan, part in zip(plans, learnt, strict=True)])
        return plans, normalisers_of(sums.sum(dim=0), settings, self.ranks.average)

    def _draw(self, parts: Sequence[TrainingBatch]) -> Draw:
        """Random numbers decided by seed and an image's position, so that nothing random has to be kept."""
        positions = [source.position for part in parts for source in part.sources]

        def draw(image: int, n: int) -> Tensor:
            seed = (self.recipe.seed, positions[image], MASK_DRAWS)
            return torch.from_numpy(np.random.default_rng(seed).random(n))

        return draw

    def _module(self) -> nn.Module:
        """The losses' module; where several processes train together, the one that averages gradients."""
        if self.ranks.size == 1:
            return self.losses
        if self._wrapped is None:
            # each process keeps its norms' statistics until they are averaged
            known = signature(DistributedDataParallel).parameters
            name = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"  # before 2.13
            own_statistics: dict[str, Any] = {name: False}
            self._wrapped = DistributedDataParallel(self.losses, **own_statistics)
        return self._wrapped

    def _exchange(self, last: bool) -> AbstractContextManager[None]:
        """Gradients of all but the last part stay in this process."""
        module = self._module()
        return nullcontext() if last or not isinstance(module, DistributedDataParallel) else module.no_sync()

    def _factor(self) -> float:
        return 1.0 if self.scale is None else self.scale.factor

    def _check_finite(self, losses: Losses, parts: Sequence[TrainingBatch]) -> None:
        """The losses of all processes together are finite or not, so that all stop or none."""
        if losses.total.isfinite():
            return
        self.undo()
        names = [source.name for part in parts for source in part.sources]
        seen = [name for own in self.ranks.gathered(names) for name in own]
        raise LossesNotFinite(
            f"the losses of iteration {self.iteration} are not finite ({_shown(losses)}); its images are"
            f" {', '.join(seen) or 'not named'}; look at them, lower optimizer.learning_rate or set"
            " optimizer.clip_norm"
        )

    def _update(self) -> None:
        """Change the weights, unless gradients of scaled losses overflowed."""
        parameters = list(self.model.parameters())
        if self.scale is not None:
            finite = self.scale.unscale(parameters)
            self.scale.update(finite)
            if not finite:
                return
        if self.recipe.optimizer.clip_norm is not None:
            nn.utils.clip_grad_norm_(parameters, self.recipe.optimizer.clip_norm)
        self.optimizer.step()
        if self.average is not None:
            self.average.update(self.model, self.iteration + 1)


def _shown(losses: Losses) -> str:
    return ", ".join(f"{name} {value.item():.3g}" for name, value in losses.terms.items())
