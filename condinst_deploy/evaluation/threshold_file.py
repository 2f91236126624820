"""Thresholds read from the `figures.json` of an evaluation, for the model that they were found with."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from condinst_deploy.contract import ModelManifest, default_class_names
from condinst_deploy.contract.artifacts import check_json
from condinst_deploy.errors import ConfigError, DataError
from condinst_deploy.shown_text import shown, shown_value
from condinst_deploy.support.digests import sha256_of
from condinst_deploy.support.input_files import read_file
from condinst_deploy.support.json_text import json_value
from condinst_deploy.support.validation import Limits, check_number, known_part, typed

EXPECTED = "expected the figures.json of condinst-eval with this model"

TO_DO = "Run condinst-eval with this model and give its figures.json, or give --model the file that was evaluated"


@dataclass(frozen=True)
class Thresholds:
    """Score thresholds of a model.

    Attributes:
        source: what the evaluation called the model or results file.
        exact: whether the evaluation ran the very file.
        overall: one threshold for all classes.
        classes: `(class name, threshold)` in the data set's order; a class without annotations has None.
        origin: what the evaluation ran, and the model that is asked for, with the beginnings of their hashes.
    """

    source: str
    exact: bool
    overall: float
    classes: tuple[tuple[str, float | None], ...]
    origin: str = "another model"

    def per_label(self, manifest: ModelManifest) -> tuple[float, ...]:
        """Return the threshold of each label of a model; a class that has none takes the overall one.

        Raises:
            ConfigError: the classes are not the model's, or one of them has several thresholds.
        """
        names, own = manifest.class_names, tuple(name for name, _ in self.classes)
        if names in (own, default_class_names(len(own))):  # in the data set's order
            found: list[float | None] = [threshold for _, threshold in self.classes]
        else:
            known = dict(self.classes)
            doubled = [name for name, count in Counter(own).items() if count > 1 and name in names]
            if doubled:
                raise ConfigError(
                    f"the thresholds have the class {shown_value(doubled[0])} more than once; {EXPECTED}, or one entry"
                )
            missing = [name for name in names if name not in known]
            if missing:
                raise ConfigError(
                    f"the thresholds have no class {shown_value(missing[0])}, which the model has: {self.origin}."
                    f" {TO_DO}"
                )
            found = [known[name] for name in names]
        return tuple(self.overall if threshold is None else threshold for threshold in found)


@dataclass(frozen=True)
class _Point:
    """A threshold of the file; None: the evaluation found no object."""

    threshold: float | None
    name: str = ""

    def __post_init__(self) -> None:
        if self.threshold is not None:
            check_number("threshold", self.threshold, Limits(0, 1))


@dataclass(frozen=True)
class _Points:
    overall: _Point
    per_class: tuple[_Point, ...]


@dataclass(frozen=True)
class _Model:
    sha256: str | None = None


@dataclass(frozen=True)
class _Settings:
    model: _Model | None = None  # results files have none


@dataclass(frozen=True)
class _Side:
    name: str
    settings: _Settings = field(default_factory=_Settings)
    thresholds: _Points | None = None  # 0.1.0 wrote none

    @property
    def digest(self) -> str | None:
        return self.settings.model.sha256 if self.settings.model is not None else None


@dataclass(frozen=True)
class _Metrics:
    """The parts of `figures.json` that thresholds need."""

    sides: tuple[_Side, ...]


def load_thresholds(path: Path, model: Path) -> Thresholds:
    """Read the thresholds of a model: those of the side with the same file, else of the only side.

    Raises:
        ConfigError: no side is the model's, and there are several.
        DataError: the file cannot be read or is no such file.
    """
    sides = _sides(path)
    if not sides:
        raise DataError(f"{path} has no sides; {EXPECTED}")
    digest = sha256_of(model)
    own = f"--model {model} has SHA-256 {_short(digest)}"
    same = [side for side in sides if side.digest == digest]
    if not same and len(sides) > 1:
        names = ", ".join(map(_named, sides[:5])) + (f" and {len(sides) - 5} more" if len(sides) > 5 else "")
        raise ConfigError(f"the thresholds of {path} were made for other content: {names}; {own}. {TO_DO}")
    side = same[0] if same else sides[0]
    if side.thresholds is None:
        raise DataError(f"{path} has no thresholds; {EXPECTED}, of a version that finds them (0.2.0 and later)")
    overall = side.thresholds.overall.threshold
    if overall is None:
        raise ConfigError(f"{path} has no best threshold: the evaluation found no object; {EXPECTED}")
    classes = tuple((point.name, point.threshold) for point in side.thresholds.per_class)
    origin = "they were made for this file" if same else f"they were made for other content: {_named(side)}; {own}"
    return Thresholds(side.name, bool(same), overall, classes, origin)


def _named(side: _Side) -> str:
    content = "no model file" if side.digest is None else f"SHA-256 {_short(side.digest)}"
    return f"{shown_value(side.name)} ({content})"


def _short(digest: str) -> str:
    """The beginning of a hash: enough to tell two files apart."""
    return shown(digest[:12])


def _sides(path: Path) -> tuple[_Side, ...]:
    check_json(path, EXPECTED.removeprefix("expected "))
    try:
        content = json_value(read_file(path))
    except OSError as e:
        raise DataError(f"{path} cannot be read ({e.strerror or e}); {EXPECTED}") from e
    except ValueError as e:
        raise DataError(f"{path} is not JSON ({e}); {EXPECTED}") from e
    try:
        return typed(known_part(content, _Metrics), _Metrics).sides
    except ConfigError as e:
        raise DataError(f"{path}: {e}; {EXPECTED}") from e
