"""Metrics of the answers of all sides: medians, paired ratios, memory, agreement, and the target."""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any, NamedTuple

from benchmarks.accuracy import accuracy_of
from benchmarks.peers.child import ENCODE, MASKS, NETWORK, STAGES
from benchmarks.peers.inputs import NATIVE, size_of
from benchmarks.peers.sides import OURS
from benchmarks.targets import Target
from condinst_deploy.evaluation.agreement import agreement_of, instances_from_coco, matched_pairs

TOTAL = "image to RLE"
MASKS_TO_RLE = "masks and encode"
PARTS: dict[str, tuple[str, ...]] = {TOTAL: (), NETWORK: (NETWORK,), MASKS_TO_RLE: (MASKS, ENCODE)}
"""Stages of each ratio; no stages means the whole."""

LIMITS = {("onnx", "eager", NATIVE): 0.70, ("int8", "onnx", NATIVE): 0.50}
"""Two sides and a size -> largest ratio of their times that is asked for. The second is for CPUs with VNNI."""


class Sample(NamedTuple):
    """One side's answer (see `benchmarks.peers.child.serve`)."""

    side: str
    image: str
    round: int  # in each, every side gets every image; 0 warms up
    answer: Mapping[str, Any]

    def milliseconds(self, part: str) -> float:
        """Time of one of `PARTS`."""
        stages = PARTS[part]
        if not stages:
            return float(self.answer["total_ms"])
        return sum(float(self.answer["stages_ms"][stage]) for stage in stages)


def summary(samples: Sequence[Sample], loaded_mib: Mapping[str, int | None]) -> dict[str, Any]:
    """All metrics, by side."""
    sides = list(loaded_mib)
    timed = {side: [s for s in samples if s.side == side and s.round > 0] for side in sides}
    found = {side: {s.image: s.answer["detections"] for s in timed[side]} for side in sides}
    reference = next(side for side in ("mmdetection", "eager", *sides) if side in sides)
    ratios = {
        ours: {theirs: ratios_by_size(timed[ours], timed[theirs]) for theirs in sides if theirs != ours}
        for ours in OURS
        if ours in sides
    }
    return {
        "milliseconds": {side: medians_by_image(timed[side]) for side in sides},
        "ratios": ratios,
        "memory_mib": {side: {"loaded": loaded_mib[side], "most": _most(timed[side])} for side in sides},
        "agreement_with": reference,
        "agreement": {side: agreements(found[reference], found[side]) for side in sides if side != reference},
    }


def medians_by_image(samples: Sequence[Sample]) -> dict[str, dict[str, float]]:
    """Median milliseconds of one side: image -> stage, or the whole, -> time."""
    return {
        image: _medians([s for s in samples if s.image == image]) for image in dict.fromkeys(s.image for s in samples)
    }


def _medians(samples: Sequence[Sample]) -> dict[str, float]:
    metrics = {stage: median(float(s.answer["stages_ms"][stage]) for s in samples) for stage in STAGES}
    metrics[TOTAL] = median(s.milliseconds(TOTAL) for s in samples)
    return {name: round(value, 1) for name, value in metrics.items()}


def ratios_by_size(ours: Sequence[Sample], theirs: Sequence[Sample]) -> dict[str, dict[str, dict[str, float]]]:
    """`paired_ratios` of the images of each size."""
    sizes = dict.fromkeys(size_of(s.image) for s in ours)
    return {size: paired_ratios([s for s in ours if size_of(s.image) == size], theirs) for size in sizes}


def paired_ratios(ours: Sequence[Sample], theirs: Sequence[Sample]) -> dict[str, dict[str, float]]:
    """Ours / theirs of each of `PARTS`: median and range of the ratios of the same image in the same round."""
    partner = {(s.image, s.round): s for s in theirs}
    found = {}
    for part in PARTS:
        ratios = [s.milliseconds(part) / partner[s.image, s.round].milliseconds(part) for s in ours]
        spread = {"median": median(ratios), "lowest": min(ratios), "highest": max(ratios)}
        found[part] = {name: round(value, 4) for name, value in spread.items()}
    return found


def targets(ratios: Mapping[str, Mapping[str, Mapping[str, Mapping[str, Mapping[str, float]]]]]) -> list[Target]:
    """Each of our sides beside every other, by size; `LIMITS` says where something is asked."""
    rows = []
    for ours, others in ratios.items():
        for theirs, sizes in others.items():
            for size, parts in sizes.items():
                name, measured = f"{TOTAL}, {size}, {ours} / {theirs}", parts[TOTAL]["median"]
                limit = LIMITS.get((ours, theirs, size))
                rows.append(
                    Target.without(name, measured, "") if limit is None else Target.at_most(name, measured, limit, "")
                )
    return rows


def agreements(reference: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """By image, how far the other side's detections are the reference's: speed at other results means nothing."""
    compared = {}
    for image in reference:
        sides = instances_from_coco(reference[image]), instances_from_coco(other[image])
        compared[image] = accuracy_of(agreement_of(*sides, matched_pairs(*sides)))
    return compared


def _most(samples: Sequence[Sample]) -> int | None:
    peaks = [s.answer["peak_mib"] for s in samples if s.answer["peak_mib"] is not None]
    return max(peaks, default=None)
