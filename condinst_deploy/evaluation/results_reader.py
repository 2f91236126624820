"""COCO results files, ours or from anywhere, read with checks."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pycocotools import mask as coco_mask

from condinst_deploy.contract.artifacts import check_json
from condinst_deploy.data.annotation_checks import checked_bbox, checked_segmentation, is_finite, merged_rle
from condinst_deploy.data.coco_file import ResultEntry, make_whole, typed_or_plain
from condinst_deploy.errors import DataError
from condinst_deploy.evaluation.coco_metrics import Entry, Kind
from condinst_deploy.evaluation.ground_truth import GroundTruth
from condinst_deploy.shown_text import shown_value
from condinst_deploy.support.input_files import read_file

KINDS: dict[str, Kind] = {"bbox": "bbox", "segmentation": "segm"}
"""Key of an entry -> what it lets be evaluated."""


def read_results(path: Path, ground_truth: GroundTruth) -> list[Entry]:
    """Read a results file: objects with `image_id`, `category_id`, `score`, and `bbox`, `segmentation` or both.

    Polygons become RLE, and a missing box becomes that of the mask. Entries of images that are not evaluated
    (`--limit`) or of ignored classes are left out.

    Raises:
        DataError: it cannot be read, an entry is malformed (named by its place), or it belongs to other data.
    """
    entries = _entries(path)
    wanted, known, categories = set(ground_truth.image_ids), set(ground_truth.coco.imgs), set(ground_truth.category_ids)
    categories |= ground_truth.ignored_ids
    keys = _keys(entries[0]) if entries else set()
    kept = []
    make_whole(entry for entry in entries if isinstance(entry, dict))
    for position, entry in enumerate(entries, start=1):
        where = f"{path}: entry {position}"
        if not keys or _keys(entry) != keys:
            wanted_keys = " and ".join(sorted(map(repr, keys))) or "'bbox', 'segmentation' or both"
            found = "" if isinstance(entry, dict) else f" but {shown_value(entry)}"
            raise DataError(f"{where} is no detection like the others{found}; expected an object with {wanted_keys}")
        _check_ids(entry, where, known, categories, ground_truth.annotations)
        if not is_finite(entry.get("score")):
            raise DataError(f"{where} has score {shown_value(entry.get('score'))}; expected a finite number")
        if entry["image_id"] in wanted and entry["category_id"] not in ground_truth.ignored_ids:
            kept.append(_checked(entry, ground_truth.size(entry["image_id"]), where))
    return kept


def kinds_of(entries: Sequence[Entry], ground_truth: GroundTruth) -> tuple[Kind, ...]:
    """Return which types of results can be evaluated: those that the data set has, and the results if there are any."""
    annotated = [(key, kind) for key, kind in KINDS.items() if kind == "bbox" or ground_truth.has_masks]
    return tuple(kind for key, kind in annotated if not entries or key in entries[0])


def by_image(entries: Iterable[Entry]) -> dict[int, list[Entry]]:
    """Entries of each image, in their order."""
    images: dict[int, list[Entry]] = {}
    for entry in entries:
        images.setdefault(entry["image_id"], []).append(entry)
    return images


def _entries(path: Path) -> list[Any]:
    check_json(path, "a COCO results file (.json)")
    try:
        content, _ = typed_or_plain(read_file(path), list[ResultEntry])
    except OSError as e:
        raise DataError(f"{path} cannot be read ({e.strerror or e}); expected a COCO results file") from e
    except ValueError as e:
        raise DataError(f"{path} is not JSON ({e}); expected a COCO results file") from e
    if not isinstance(content, list):
        raise DataError(
            f"{path} holds no list but {shown_value(content)}; expected a COCO results file:"
            " [{'image_id': 42, 'category_id': 18, ...}, ...]"
        )
    return content


def _keys(entry: Any) -> set[str]:
    return KINDS.keys() & entry.keys() if isinstance(entry, dict) else set()


def _check_ids(entry: Entry, where: str, known: set[int], categories: set[int], annotations: Path) -> None:
    for key, ids, what in (("image_id", known, "image"), ("category_id", categories, "category")):
        value = entry.get(key)
        if type(value) is not int or value not in ids:
            raise DataError(
                f"{where} has {key} {shown_value(value)}, which no {what} of {annotations} has;"
                " expected results of the same data set, with its own ids"
            )


def _checked(entry: Entry, size: tuple[int, int], where: str) -> Entry:
    """A copy with the needed fields only; the RLE's counts are text, as pycocotools writes them to files."""
    kept: Entry = {key: entry[key] for key in ("image_id", "category_id", "score")}
    if "segmentation" in entry:
        rle = merged_rle(checked_segmentation(entry["segmentation"], size, where), size)
        kept["segmentation"] = {"size": list(size), "counts": rle["counts"].decode("ascii")}
        kept["bbox"] = coco_mask.toBbox(rle).tolist() if "bbox" not in entry else entry["bbox"]
    if "bbox" in entry:
        kept["bbox"] = checked_bbox(entry["bbox"], where)
    return kept
