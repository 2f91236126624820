"""Thresholds read from the `figures.json` of an evaluation, for the model that they were found with."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from condinst_deploy.contract import ModelManifest, default_class_names
from condinst_deploy.contract.artifacts import check_json
from condinst_deploy.errors import ConfigError, DataError
from condinst_deploy.shown_text import shown_value
from condinst_deploy.support.digests import sha256_of

EXPECTED = "expected the figures.json of condinst-eval with this model"


@dataclass(frozen=True)
class Thresholds:
    """Score thresholds of a model.

    Attributes:
        source: what the evaluation called the model or results file.
        exact: whether the evaluation ran the very file.
        overall: one threshold for all classes.
        classes: `(class name, threshold)` in the data set's order; a class without annotations has None.
    """

    source: str
    exact: bool
    overall: float
    classes: tuple[tuple[str, float | None], ...]

    def per_label(self, manifest: ModelManifest) -> tuple[float, ...]:
        """Return the threshold of each label of a model; a class that has none takes the overall one.

        Raises:
            ConfigError: the classes are not the model's.
        """
        names = manifest.class_names
        if names == default_class_names(len(self.classes)):  # numbered as in the data set
            found: list[float | None] = [threshold for _, threshold in self.classes]
        else:
            known = dict(self.classes)
            missing = [name for name in names if name not in known]
            if missing:
                raise ConfigError(
                    f"the thresholds have no class {shown_value(missing[0])}, which the model has; {EXPECTED}"
                )
            found = [known[name] for name in names]
        return tuple(self.overall if threshold is None else threshold for threshold in found)


def load_thresholds(path: Path, model: Path) -> Thresholds:
    """Read the thresholds of a model: those of the side with the same file, else of the only side.

    Raises:
        ConfigError: no side is the model's, and there are several.
        DataError: the file cannot be read or is no such file.
    """
    sides = [side for side in _list(_content(path), "sides", path) if isinstance(side, dict)]
    if not sides:
        raise DataError(f"{path} has no sides; {EXPECTED}")
    digest = sha256_of(model)
    same = [side for side in sides if _digest(side) == digest]
    if not same and len(sides) > 1:
        names = ", ".join(shown_value(side.get("name")) for side in sides[:5])
        raise ConfigError(f"{path} has thresholds of {names}, and none of them is {model}; {EXPECTED}")
    side = same[0] if same else sides[0]
    points = side.get("thresholds")
    if not isinstance(points, dict) or not isinstance(points.get("overall"), dict):
        raise DataError(f"{path} has no thresholds; {EXPECTED}, of a version that finds them (0.2.0 and later)")
    overall = _threshold(points["overall"], path)
    if overall is None:
        raise ConfigError(f"{path} has no best threshold: the evaluation found no object; {EXPECTED}")
    entries = [entry for entry in _list(points, "per_class", path) if isinstance(entry, dict)]
    classes = tuple((str(entry.get("name")), _threshold(entry, path)) for entry in entries)
    return Thresholds(str(side.get("name")), bool(same), overall, classes)


def _content(path: Path) -> dict[str, Any]:
    check_json(path, EXPECTED.removeprefix("expected "))
    try:
        content = json.loads(path.read_bytes())
    except OSError as e:
        raise DataError(f"{path} cannot be read ({e.strerror or e}); {EXPECTED}") from e
    except (ValueError, RecursionError) as e:
        raise DataError(f"{path} is not JSON; {EXPECTED}") from e
    if not isinstance(content, dict):
        raise DataError(f"{path} holds no object; {EXPECTED}")
    return content


def _list(content: dict[str, Any], key: str, path: Path) -> list[Any]:
    value = content.get(key)
    if not isinstance(value, list):
        raise DataError(f"{path} has no list {key!r}; {EXPECTED}")
    return value


def _digest(side: dict[str, Any]) -> object:
    settings = side.get("settings")
    model = settings.get("model") if isinstance(settings, dict) else None
    return model.get("sha256") if isinstance(model, dict) else None


def _threshold(point: dict[str, Any], path: Path) -> float | None:
    value = point.get("threshold")
    if value is None:
        return None
    if type(value) not in (int, float) or not 0 <= value <= 1:  # NaN and infinity are outside, too
        raise DataError(f"{path} has a threshold of {shown_value(value)}; expected a number from 0 to 1")
    return float(value)
