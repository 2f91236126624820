"""Options of a training run; light, so that a command can check them before it imports PyTorch."""

import os
from dataclasses import dataclass
from pathlib import Path

from condinst_deploy.contract.artifacts import CHECKPOINT, check_checkpoint, check_folder, check_json, check_kind
from condinst_deploy.errors import ConfigError, DataError
from condinst_deploy.runtime.devices import check_device
from condinst_deploy.shown_text import shown_value
from condinst_deploy.support.option_types import check_types
from condinst_deploy.support.validation import is_unicode

PLACES = ("train_annotations", "train_images", "val_annotations", "val_images")
"""Names of the places of the data in a recipe."""


@dataclass(frozen=True)
class TrainOptions:
    """Options of a training run: changes of the recipe, start, and output folder.

    Attributes:
        out: folder of the run; None: `runs/NAME_OF_THE_RECIPE`.
        train_annotations: COCO annotation file to train on; None, as for the next three: the recipe's.
        train_images: folder of its images.
        val_annotations: COCO annotation file to evaluate on.
        val_images: folder of its images.
        weights: CondInst checkpoint to fine-tune.
        backbone: file with a ResNet to start from, or `torchvision` for its ImageNet weights, which are fetched.
        num_classes: number of classes that the data set must have.
        iterations: length of the run, instead of the recipe's.
        seed: instead of the recipe's.
        resume: continue from the last checkpoint in the folder of the run; the other options stay as they were.
        strict: refuse a data set with anything odd in it, instead of a warning.
        device: auto, cpu, cuda or cuda:N.
        meeting: where several processes find each other: `env://` (torchrun's), `tcp://host:port` or `file:///path`.
    """

    out: Path | None = None
    train_annotations: Path | None = None
    train_images: Path | None = None
    val_annotations: Path | None = None
    val_images: Path | None = None
    weights: Path | None = None
    backbone: Path | None = None
    num_classes: int | None = None
    iterations: int | None = None
    seed: int | None = None
    resume: bool = False
    strict: bool = False
    device: str = "auto"
    meeting: str = "env://"

    def __post_init__(self) -> None:
        """Check what the run begins with.

        Raises:
            CheckpointError: the file of weights or of the backbone does not exist, or is no checkpoint.
            DataError: the data is not where it was named.
            ConfigError: a value has a wrong type, or two options name different beginnings.
        """
        check_types(self)
        check_device(self.device)
        self._check_places()
        if self.weights is not None and self.backbone is not None:
            raise ConfigError("--weights and --backbone both say what to begin with; give one of them")
        for option, start in (("--weights", self.weights), ("--backbone", self.backbone)):
            if start is not None and not (option == "--backbone" and str(start) == "torchvision"):
                check_kind(Path(start), CHECKPOINT, option)
                check_checkpoint(Path(start))

    def _check_places(self) -> None:
        """Check that the data is where it was named, before anything is imported or generated.

        Raises:
            ConfigError: a path is no text, or is of another kind.
            DataError: nothing is there.
        """
        for name, place in self.places.items():
            if not is_unicode(place):
                raise ConfigError(f"{name} is {shown_value(place)}; the recipe of the run names it: expected UTF-8")
            option = f"--{name.replace('_', '-')}"
            if name.endswith("annotations"):
                check_json(Path(place), "a COCO annotation file (.json)")
                if not os.path.lexists(place):
                    raise DataError(f"no annotations at {place}; expected a COCO annotation file in {option}")
            else:
                check_folder(Path(place), f"the folder of the annotated images in {option}", DataError)

    @property
    def places(self) -> dict[str, str]:
        """Return the given paths of the data, by their names in the recipe."""
        return {name: str(path) for name in PLACES if (path := getattr(self, name)) is not None}
