"""Output of an evaluation: a JSON file of all metrics, and one self-contained HTML page."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from condinst_deploy.contract import DRAWN_ABOVE
from condinst_deploy.evaluation.coco_metrics import CURVE_IOUS, KIND_NAMES, METRIC_NAMES, Kind, Metrics, points
from condinst_deploy.evaluation.comparison import IOU_BINS, RULE, SIZES, Comparison, agreement_metrics, iou_counts
from condinst_deploy.evaluation.evaluator import Evaluation, Side
from condinst_deploy.evaluation.gate import GATED, Failure, NotCompared, compared, is_moved
from condinst_deploy.evaluation.operating_points import MIN_IOU, points_json
from condinst_deploy.evaluation.panels import Panel, panel_from
from condinst_deploy.evaluation.svg_plots import Curve, bars, error_rows, iou_rows, precision_recall
from condinst_deploy.evaluation.threshold_tables import COLUMNS, confusion_table, threshold_rows
from condinst_deploy.evaluation.wording import change_text, iou_text, percent_text, points_text, small_text
from condinst_deploy.shown_text import counted, shown
from condinst_deploy.support.atomic_write import atomic_path

BOX_ERROR_BOUNDS = (0.001, 0.01, 0.1, 1.0, 10.0)  # px
SCORE_ERROR_BOUNDS = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2)

COLOURS = (
    ("#64748b", "#8fa0b5"),
    ("#1d5fd6", "#6aa5ff"),
    ("#c2560c", "#ff9f5a"),
    ("#0d8a6a", "#4fd1ae"),
    ("#9333b8", "#d08bf0"),
)
"""Colours of the first sides, on a light and on a dark page."""

GOLDEN_ANGLE = 137.508
"""Degrees of hue between two further sides; no two of them ever meet."""

Cell = tuple[float | None, float | None]
"""A metric in points, and its difference from the reference's; None if there is none."""


@dataclass(frozen=True)
class Verdict:
    """Result of the gate; the limit is None if no gate was requested."""

    limit: float | None = None  # points
    failures: tuple[Failure | NotCompared, ...] = ()


def metrics_table(evaluation: Evaluation) -> list[tuple[str, list[Cell]]]:
    """Rows of all metrics that a side has: name and one cell a side."""
    kinds: list[Kind] = ["bbox", "segm"]
    return [
        (f"{KIND_NAMES[kind]} {METRIC_NAMES[name]}", _cells([_metric(side, kind, name) for side in evaluation.sides]))
        for kind in kinds
        if any(kind in side.coco for side in evaluation.sides)
        for name in Metrics._fields
    ]


def class_table(evaluation: Evaluation) -> list[tuple[str, str, list[Cell]]]:
    """Rows of AP for each class that is annotated: class, kind, and one cell a side."""
    kinds: list[Kind] = ["bbox", "segm"]
    rows = []
    for category_id in evaluation.ground_truth.category_ids:
        for kind in kinds:
            found = [
                points(s.coco[kind].per_class[category_id].ap) if kind in s.coco else None for s in evaluation.sides
            ]
            if any(value is not None for value in found):
                rows.append((evaluation.ground_truth.name_of(category_id), KIND_NAMES[kind], _cells(found)))
    return rows


def figures_json(evaluation: Evaluation, verdict: Verdict, per_class: bool) -> dict[str, Any]:
    """All metrics as plain values; AP and AR in points, 0..100."""
    ground_truth = evaluation.ground_truth
    return {
        "annotations": str(ground_truth.annotations),
        "images": len(ground_truth),
        **({"ignored_classes": list(ground_truth.ignored)} if ground_truth.ignored else {}),
        "unit": "AP points, 0..100",
        "versions": evaluation.versions,
        "sides": [_side_json(side, evaluation, per_class) for side in evaluation.sides],
        "rule": RULE,
        "comparisons": [
            _comparison_json(side, comparison, evaluation)
            for side, comparison in zip(evaluation.sides[1:], evaluation.comparisons, strict=True)
        ],
        "gate": {
            "limit": verdict.limit,
            "passed": None if verdict.limit is None else not verdict.failures,
            "failures": [str(failure) for failure in verdict.failures],
        },
    }


def write_html(path: Path, evaluation: Evaluation, verdict: Verdict, per_class: bool) -> None:
    """Write the report: one file with its images inside, no scripts, nothing loaded from anywhere.

    Raises:
        ImageError: an image that differs cannot be read any more.
        OutputError: the file cannot be written.
    """
    page = (
        _environment(verdict.limit)
        .get_template("report.html")
        .render(
            sides=evaluation.sides,
            ground_truth=evaluation.ground_truth,
            verdict=verdict,
            table=metrics_table(evaluation),
            classes=class_table(evaluation) if per_class else [],
            curves=[(title, Markup(svg)) for title, svg in _curve_plots(evaluation)],
            comparisons=[
                _section(side, comparison, number, evaluation)
                for number, (side, comparison) in enumerate(
                    zip(evaluation.sides[1:], evaluation.comparisons, strict=True), start=1
                )
            ],
            thresholds=[
                (
                    side,
                    KIND_NAMES[side.points.kind],
                    threshold_rows(side, evaluation.ground_truth, per_class=True),
                    confusion_table(side.points, evaluation),
                )
                for side in evaluation.sides
            ],
            threshold_columns=COLUMNS,
            min_iou=MIN_IOU,
            rule=RULE,
            gated=compared(evaluation),
            gated_names=[METRIC_NAMES[name] for name in GATED],
            colours=_colours(len(evaluation.sides)),
            drawn_above=DRAWN_ABOVE,
            curve_ious=CURVE_IOUS,
        )
    )
    with atomic_path(path) as temporary:
        temporary.write_text(page, encoding="utf-8", errors="backslashreplace")  # names of files need not be UTF-8


def _environment(limit: float | None) -> Environment:
    """Return what the template is filled in with; `limit` is the gate's, in points."""
    loader = PackageLoader("condinst_deploy.evaluation")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    environment.finalize = _shown
    environment.filters |= {
        "points": points_text,
        "change": change_text,
        "percent": percent_text,
        "small": small_text,
        "iou": iou_text,
        "breakable": _breakable,
        "counted": counted,
    }
    environment.tests["moved"] = lambda change: limit is not None and is_moved(change, limit)
    return environment


def _cells(values: Sequence[float | None]) -> list[Cell]:
    first = values[0]
    changes = [None if value is None or first is None else value - first for value in values]
    return [(value, change if i else None) for i, (value, change) in enumerate(zip(values, changes, strict=True))]


def _metric(side: Side, kind: Kind, name: str) -> float | None:
    return points(getattr(side.coco[kind].metrics, name)) if kind in side.coco else None


def _side_json(side: Side, evaluation: Evaluation, per_class: bool) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "name": side.name,
        "note": side.note,
        "results": str(side.results.absolute()),
        "detections": side.detections,
        "images_from_journal": side.reused,
        "settings": _without_manifest(side.settings),
        "thresholds": points_json(side.points, evaluation.ground_truth),
    }
    for kind, coco in side.coco.items():
        entry[KIND_NAMES[kind]] = {name: points(value) for name, value in coco.metrics._asdict().items()}
    if per_class:
        entry["per_class"] = {
            str(category_id): {
                "name": evaluation.ground_truth.name_of(category_id),
                **{KIND_NAMES[kind]: points(coco.per_class[category_id].ap) for kind, coco in side.coco.items()},
            }
            for category_id in evaluation.ground_truth.category_ids
        }
    return entry


def _without_manifest(settings: dict[str, Any]) -> dict[str, Any]:
    """Leave out the manifest, which is long; the file's name and hash identify the model."""
    if "model" not in settings:
        return settings
    return settings | {"model": {key: value for key, value in settings["model"].items() if key != "manifest"}}


def _comparison_json(side: Side, comparison: Comparison, evaluation: Evaluation) -> dict[str, Any]:
    return {
        "name": side.name,
        "reference": evaluation.sides[0].name,
        "agreement": agreement_metrics(comparison.whole),
        "by_size": {size: agreement_metrics(comparison.by_size[size]) for size in SIZES},
        "worst_images": [
            {"image_id": image.image_id, "difference": image.difference, **agreement_metrics(image.whole)}
            for image in comparison.worst
        ],
    }


def _section(side: Side, comparison: Comparison, number: int, evaluation: Evaluation) -> dict[str, Any]:
    """Values of one comparison for the template."""
    whole = comparison.whole
    plots = [
        ("Mask IoU of matched pairs", bars("mask IoU", iou_rows(iou_counts(whole.mask_ious), IOU_BINS), number)),
        ("Box difference, px (largest of four)", bars("box", error_rows(whole.box_errors, BOX_ERROR_BOUNDS), number)),
        ("Score difference", bars("score", error_rows(whole.score_errors, SCORE_ERROR_BOUNDS), number)),
    ]
    sizes = [("all", agreement_metrics(whole)), *((s, agreement_metrics(comparison.by_size[s])) for s in SIZES)]
    return {
        "side": side,
        "number": number,
        "sizes": sizes,
        "masks": not whole.matched or not np.isnan(whole.mask_ious).any(),
        "plots": [(title, Markup(svg)) for title, svg in plots],
        "worst": list(zip(comparison.worst, _panels(evaluation, number - 1), strict=True)),
    }


def _panels(evaluation: Evaluation, which: int) -> list[Panel | None]:
    ground_truth = evaluation.ground_truth
    return [panel_from(d, ground_truth) if ground_truth.has_images else None for d in evaluation.differences[which]]


def _colours(count: int) -> list[tuple[str, str]]:
    """A colour for each side, on a light and on a dark page."""
    hues = [round(number * GOLDEN_ANGLE % 360) for number in range(len(COLOURS), count)]
    return [*COLOURS, *((f"hsl({hue} 65% 38%)", f"hsl({hue} 65% 68%)") for hue in hues)][:count]


def _curve_plots(evaluation: Evaluation) -> list[tuple[str, str]]:
    kinds: list[Kind] = ["bbox", "segm"]
    plots = []
    for kind in kinds:
        curves = [
            Curve(f"{side.name}, IoU {iou:g}", side.coco[kind].curves[k], number, dashed=k > 0)
            for k, iou in enumerate(CURVE_IOUS)
            for number, side in enumerate(evaluation.sides)
            if kind in side.coco
        ]
        if curves:
            plots.append((f"{KIND_NAMES[kind].capitalize()} precision over recall", precision_recall(kind, curves)))
    return plots


def _shown(value: Any) -> Any:
    """Return text for a template: without control characters and lone surrogates, which UTF-8 cannot encode."""
    return shown(value) if type(value) is str else value


def _breakable(name: str) -> Markup:
    """A file's name that may be broken where a reader would."""
    breaks = {sign: Markup("{}<wbr>").format(sign) for sign in "/_-"} | {".": Markup("<wbr>.")}
    return Markup("").join(breaks.get(sign, sign) for sign in shown(name))
