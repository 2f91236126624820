"""Sources and options of an evaluation, and checks of both before anything long begins."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from condinst_deploy.contract.artifacts import check_json, check_precision_applies, check_there, model_kind
from condinst_deploy.contract.model_settings import SHARE
from condinst_deploy.contract.precision import Precision
from condinst_deploy.errors import ConfigError, DataError
from condinst_deploy.runtime.observer import Observer
from condinst_deploy.shown_text import shown_value, told_apart
from condinst_deploy.support.digests import sha256_of_bytes
from condinst_deploy.support.file_names import fitting_stem
from condinst_deploy.support.input_files import is_there, real_path
from condinst_deploy.support.option_types import check_types
from condinst_deploy.support.validation import check_given

REPORT, METRICS = "report.html", "figures.json"


@dataclass(frozen=True)
class Source:
    """Source of results: a model to run, or a results file."""

    path: Path
    is_model: bool


@dataclass(frozen=True)
class EvaluationOptions:
    """Options of an evaluation.

    Attributes:
        out: folder for report, metrics, results and journals.
        device: auto, cpu, cuda or cuda:N.
        batch_size: images of equal padded shape that are run at once; None: 1 on a CPU, 8 on a GPU.
        score_threshold: keep scores above it; None: the models' own thresholds.
        fast: compute average precision with faster-coco-eval.
        fresh: run all images again and ignore the journals of earlier runs.
        gate: largest difference of an AP from the reference's, in points from 0 to 100; None: no gate.
        per_class: also report the AP of each class.
        limit: number of images, from the first on; None: all.
        observer: called for each stage of the models and of the evaluation; None: no cost.
        precision: of the checkpoints' networks; None: float32. Other files have their own.
        canvases: padded sizes of the models' images, as of `PredictorOptions`. Metrics and agreement then show what
            they cost. None: to multiples of 32.
        ignored_classes: classes of the data that are not evaluated: their objects are left out, and entries of results
            files with their ids.
    """

    out: Path = Path("evaluation")
    device: str = "auto"
    batch_size: int | None = None
    score_threshold: float | None = None
    fast: bool = False
    fresh: bool = False
    gate: float | None = None
    per_class: bool = False
    limit: int | None = None
    observer: Observer | None = None
    precision: Precision | None = None
    canvases: Sequence[tuple[int, int]] | None = None
    ignored_classes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check types and numbers.

        Raises:
            ConfigError: a value has a wrong type or is outside its range.
        """
        check_types(self)
        check_given(self, score_threshold=SHARE)
        if self.batch_size is not None and self.batch_size < 1:
            raise ConfigError(f"batch_size is {shown_value(self.batch_size)}; expected at least 1")
        if self.gate is not None and not 0 <= self.gate <= 100:
            raise ConfigError(f"--gate is {told_apart(self.gate, 0, 100)[0]}; expected 0 to 100 AP points")
        if self.limit is not None and self.limit < 1:
            raise ConfigError(f"limit is {shown_value(self.limit)}; expected at least 1")


def unique_names(paths: Sequence[Path]) -> list[str]:
    """File names, with as many folders as are needed to make them different, and a number if that is not enough.

    They stay unique as parts of file names, too (`results_path`).
    """
    names: list[str] = []
    for i, path in enumerate(paths):
        others = [other for j, other in enumerate(paths) if j != i]
        parts = 1
        while parts < len(path.parts) and any(path.parts[-parts:] == other.parts[-parts:] for other in others):
            parts += 1
        name = numbered = "/".join(part.strip("/") for part in path.parts[-parts:])
        taken = {_file_stem(other) for other in names}
        number = i + 1
        while _file_stem(numbered) in taken:
            numbered = f"{name} ({number})"
            number += 1
        names.append(numbered)
    return names


def results_path(out: Path, name: str) -> Path:
    """Return the path of the results file of the model with that unique name."""
    return out / f"{_file_stem(name)}.results.json"


def checked_sources(
    models: Sequence[Path], results: Sequence[Path], annotations: Path, images: Path | None, options: EvaluationOptions
) -> list[Source]:
    """Models, then results files, after all checks that need no library.

    Raises:
        ConfigError, ArtifactError, CheckpointError, DataError: as `check_sources` and `check_outputs`.
    """
    sources = [Source(path, is_model=True) for path in models] + [Source(path, is_model=False) for path in results]
    check_sources(sources, images, options.gate)
    check_precision_applies(models, options.precision)
    check_outputs(sources, annotations, options.out)
    return sources


def check_sources(sources: Sequence[Source], images: Path | None, gate: float | None) -> None:
    """Check that an evaluation makes sense.

    Raises:
        ConfigError: nothing to evaluate, no images for a model, or nothing to compare for the gate.
        ArtifactError, CheckpointError: a model is not there.
        DataError: a results file is not there.
    """
    if not sources:
        raise ConfigError("nothing to evaluate: name models with --model, or results files with --results")
    if images is None and any(source.is_model for source in sources):
        raise ConfigError("--images is missing: the folder of the images that the models are to be run on")
    if gate is not None and len(sources) < 2:
        raise ConfigError("--gate compares with the first model or results file; name at least one more")
    for source in sources:
        if source.is_model:
            model_kind(source.path)  # by its name, before a folder is made
            check_there(source.path)
        else:
            check_json(source.path, "a COCO results file (.json)")
    missing = [str(source.path) for source in sources if not source.is_model and not _is_there(source.path)]
    if missing:
        raise DataError(f"no results file at {', '.join(missing)}")


def _is_there(path: Path) -> bool:
    try:
        return is_there(path)
    except OSError as e:
        raise DataError(f"{path} cannot be read ({e.strerror or e}); expected a COCO results file") from e


def check_outputs(sources: Sequence[Source], annotations: Path, out: Path) -> None:
    """Check that nothing that is read would be written over.

    Raises:
        ConfigError: a given file is one that the evaluation writes.
    """
    names = unique_names([source.path for source in sources])
    written = [out / REPORT, out / METRICS]
    written += [results_path(out, name) for source, name in zip(sources, names, strict=True) if source.is_model]
    for given in (annotations, *(source.path for source in sources)):
        if any(_same_file(given, path) for path in written):
            raise ConfigError(
                f"{given} is to be read, and this evaluation would write over it;"
                " give the file another name, or name another folder with --out"
            )


def _file_stem(name: str) -> str:
    stem = name.replace("/", "_")
    if fitting_stem(stem) == stem:
        return stem
    return fitting_stem(stem, f"-{sha256_of_bytes(os.fsencode(stem))[:12]}")  # long names stay apart


def _same_file(a: Path, b: Path) -> bool:
    """Return whether two paths are one file: by name, through symbolic links, or as hard links."""
    if real_path(a) == real_path(b):
        return True
    return a.exists() and b.exists() and a.samefile(b)
