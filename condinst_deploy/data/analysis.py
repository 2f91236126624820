"""Analysis of a training set before the first step: errors, warnings, and what is left out."""

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from condinst_deploy.contract import Preprocessing
from condinst_deploy.data.annotation_arrays import Images, Records
from condinst_deploy.data.annotation_checks import Reason
from condinst_deploy.data.box_form import are_corners, corners_finding
from condinst_deploy.data.coco import MIN_SIZE, CocoDataset
from condinst_deploy.data.data_report import ClassCount, DataReport, Finding
from condinst_deploy.data.equal_files import contents_of
from condinst_deploy.data.header_checks import header_findings
from condinst_deploy.data.learnable import learnable
from condinst_deploy.data.object_shapes import Objects, leaves, objects_of
from condinst_deploy.data.validation_findings import validation_findings
from condinst_deploy.imaging.image_sizes import Header, headers_of
from condinst_deploy.shown_text import counted, quoted_if_odd

SMALL, LARGE = 32**2, 96**2
"""COCO's limits of size, in pixels of area."""

CORNER = 0.1
"""Pixels by which numbers that should have been pixels may leave 0..1: objects at a border are drawn over it."""

USUAL: tuple[Reason, ...] = ("crowd", "marked ignore")
"""Reasons to leave an annotation out that its author chose."""

DIFFERENT = 0.5
"""Overlap (IoU) of an object's box and its mask's below which the two are said to differ."""

TOO_SMALL = "they are too small or too thin: train at larger sizes"

DECIMALS = 2
"""Digits of pixels in which two annotations of the same object agree; another first corner moves the last bits."""

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]


def analyse(
    data: CocoDataset, preprocessing: Preprocessing, short_sides: Sequence[int], validation: CocoDataset | None = None
) -> DataReport:
    """Look at every annotation and at the header of every image that is trained on.

    Args:
        data: a training set.
        preprocessing: how its images are resized.
        short_sides: that images are trained at.
        validation: the set that the model will be evaluated on; None: it is not looked at.
    """
    objects, headers = objects_of(data.records), list(headers_of(data.paths))
    evaluated = [] if validation is None else list(headers_of(validation.paths))
    contents, shared = _contents(data, headers, validation, evaluated)
    classes = _classes(data, objects)
    wrong, odd, (boxes, most) = _object_findings(data, objects, preprocessing, short_sides)
    wrong_there, odd_there = ([], []) if validation is None else validation_findings(validation, evaluated, data)
    errors = [*header_findings(data.records, headers), *wrong, *([boxes] if most else []), *wrong_there]
    warnings = [
        shared,
        *_duplicates(data, objects, headers, contents),
        *_left_out_oddly(data),
        *odd,
        *([] if most else [boxes]),
        *_classes_oddly(data, classes),
        *odd_there,
    ]
    return DataReport(
        annotations=str(data.annotations),
        images=len(data.records),
        listed=len(data.all_records),
        classes=classes,
        errors=_present(errors),
        warnings=_present(warnings),
        notes=_present(_notes(data)),
    )


def _object_findings(
    data: CocoDataset, objects: Objects, preprocessing: Preprocessing, short_sides: Sequence[int]
) -> tuple[list[Finding], list[Finding], tuple[Finding, bool]]:
    """Objects that cannot be right, objects that are odd, and the `corners_finding` of the others' boxes."""
    wrong, normalised, corner = _normalised(data, objects)
    leaving = leaves(objects.extents, objects.sizes) & objects.polygons
    empty = (objects.mask_areas == 0) & ~wrong
    outside, empty = empty & leaving, empty & ~leaving
    usable = ~(wrong | outside | empty)  # one finding for each object: no other can be true of these
    learnt = learnable(objects.boxes, objects.centres, objects.sizes, preprocessing, short_sides)
    corners = are_corners(objects.boxes, objects.extents, objects.sizes, data.boxes_only) & usable
    differing, unlearnable = _differ(objects) & usable & ~corners, ~learnt & usable

    def found(which: BoolArray, what: str, advice: str) -> Finding:
        return Finding.of("object", what, advice, _chosen(objects, which))

    errors = [
        normalised,
        found(outside, "whose polygons lie outside their image", "they belong to another image or size"),
    ]
    warnings = [
        corner,
        found(leaving & usable, "whose polygons leave their image", "they are cut off at its border"),
        found(empty, "whose mask has no pixels", "it is a polygon on a line, or an RLE of zeros"),
        found(differing, "whose box is not their mask's (overlap below one half)", "boxes are [x, y, width, height]"),
        found(unlearnable, "that no pyramid level can learn at these sizes", TOO_SMALL),
    ]
    return errors, warnings, corners_finding(objects.ids, objects.boxes, corners)


def _present(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    return tuple(finding for finding in findings if finding.count)


def _chosen(objects: Objects, mask: npt.NDArray[np.bool_]) -> list[str]:
    return [f"annotation {objects.ids[i]}" for i in np.flatnonzero(mask)]


def _normalised(data: CocoDataset, objects: Objects) -> tuple[BoolArray, Finding, Finding]:
    """Objects in 0..1 instead of pixels: which `(n,)`; and two findings, what cannot be right and what is odd.

    Where their boxes are larger than a pixel, or where most of a file's objects are so, they cannot be right. A few
    others may be objects in the first pixel.
    """
    low, high = objects.extents[:, :2].min(axis=1), objects.extents[:, 2:].max(axis=1)
    inside = (low >= -CORNER) & (high <= 1 + CORNER) & (objects.sizes.min(axis=1) > 1) & objects.polygons
    large = objects.boxes[:, 2:].max(axis=1) > 2
    wrong, few = _chosen(objects, inside & large), _chosen(objects, inside & ~large)
    others = len(objects.ids) - len(few)
    few += [f"annotation {each.annotation_id}" for each in data.left_out if each.reason == "within the first pixel"]
    if len(few) > others:
        wrong, few = wrong + few, []
    advice = "COCO's numbers are pixels: multiply by the image's width and height"
    return (
        inside,
        Finding.of("object", "whose numbers all lie in 0..1", advice, wrong),
        Finding.of("object", "within the first pixel of the image", advice, few),
    )


def _differ(objects: Objects) -> BoolArray:
    """Return for each object whether its box and its mask, or their parts in the image, overlap by less than half."""
    limit = np.tile(objects.sizes[:, ::-1], 2)
    overlap = np.maximum(
        _overlap(objects.boxes, objects.extents), _overlap(objects.boxes.clip(0, limit), objects.visible)
    )
    return np.asarray(overlap < DIFFERENT, dtype=np.bool_)


def _overlap(a: FloatArray, b: FloatArray) -> FloatArray:
    """IoU of each pair of boxes `(n, 4)`, xyxy."""
    shared = (np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2])).clip(0).prod(axis=1)
    both = (a[:, 2:] - a[:, :2]).prod(axis=1) + (b[:, 2:] - b[:, :2]).prod(axis=1) - shared
    return np.asarray(np.divide(shared, both, out=np.zeros_like(shared), where=both > 0), dtype=np.float64)


def _contents(
    data: CocoDataset, headers: Sequence[Header], validation: CocoDataset | None, evaluated: Sequence[Header]
) -> tuple[list[int], Finding]:
    """The first image with the content of each, and the images that are also evaluated on."""
    others: Sequence[Path] = [] if validation is None else validation.paths
    contents = contents_of([*data.paths, *others], [*headers, *evaluated])
    trained, measured = contents[: len(headers)], contents[len(headers) :]
    place = {content: i for i, content in reversed(list(enumerate(measured)))}
    both = [i for i, content in enumerate(trained) if content in place]
    names = [_name_twice(data.paths[i].name, others[place[trained[i]]].name) for i in both]
    again = len(set(measured) & set(trained))
    what = f"that the validation set has, too: {again} of its {counted(len(place), 'image')}"
    return trained, Finding.of(
        "image", what, "its AP would be of images that were trained on: keep them in one set", names
    )


def _name_twice(trained: str, evaluated: str) -> str:
    return trained if trained == evaluated else f"{trained} = {evaluated}"


def _duplicates(
    data: CocoDataset, objects: Objects, headers: Sequence[Header], contents: Sequence[int]
) -> list[Finding]:
    """Files that are listed twice or have copies, and objects that are annotated twice."""
    ids, names = data.image_ids, data.records.images.names
    listed = defaultdict(list)
    for position, header in enumerate(headers):
        if header.file is not None:
            listed[header.file].append(position)
    files = [
        f"images {', '.join(str(ids[p]) for p in places)}: {names[int(data.records.rows[places[0]])]}"
        for places in listed.values()
        if len(places) > 1
    ]
    copied: defaultdict[int, dict[Any, int]] = defaultdict(dict)  # content -> file -> the first image of it
    for position, (header, content) in enumerate(zip(headers, contents, strict=True)):
        copied[content].setdefault(header.file, position)
    copies = [
        f"images {', '.join(str(ids[p]) for p in places)}: {', '.join(data.paths[p].name for p in places)}"
        for places in (list(each.values()) for each in copied.values())
        if len(places) > 1
    ]
    again, otherwise = _annotated_again(data.records, objects)
    twice = "annotated a second time, with the same"
    return [
        Finding.of("file", "listed as several images", "", files),
        Finding.of("file", "with the same bytes under other names", "a copy is trained on as one more image", copies),
        Finding.of("object", f"{twice} class, box and mask", "", _chosen(objects, again)),
        Finding.of("object", f"{twice} box and mask but another class", "", _chosen(objects, otherwise)),
    ]


def _annotated_again(records: Records, objects: Objects) -> tuple[BoolArray, BoolArray]:
    """Objects `(n,)` that repeat an earlier one of their image: with its class, and with another one."""
    rows, owners = records.owned()
    places = (objects.boxes, objects.extents, objects.centres, objects.mask_areas[:, None])
    what = np.column_stack((owners, np.concatenate(places, axis=1).round(DECIMALS)))
    labelled = np.column_stack((what, records.objects.labels[rows]))
    again, seen = _repeats(labelled), _repeats(what)
    return again, seen & ~again


def _repeats(rows: npt.NDArray[Any]) -> BoolArray:
    """Return for each row `(n, k)` whether an earlier one is the same."""
    _, first = np.unique(rows, axis=0, return_index=True)
    repeats = np.ones(len(rows), dtype=np.bool_)
    repeats[first] = False
    return repeats


def _classes_oddly(data: CocoDataset, classes: Sequence[ClassCount]) -> list[Finding]:
    """Classes without objects, and names that a person or a command cannot tell apart."""
    unused = [quoted_if_odd(each.name) for each in classes if not each.objects]
    spellings = defaultdict(set)
    for name in data.class_names:
        spellings[" ".join(unicodedata.normalize("NFKC", name).casefold().split())].add(name)
    nameless = [
        f"category {i}" for i, name in zip(data.category_ids, data.class_names, strict=True) if not name.strip()
    ]
    several = [quoted_if_odd(name) for name, count in Counter(data.class_names).items() if count > 1 and name.strip()]
    alike = [
        " / ".join(map(quoted_if_odd, sorted(names))) for plain, names in spellings.items() if len(names) > 1 and plain
    ]
    return [
        Finding.of("class", "without an object to learn", "", unused),
        Finding.of("class", "without a name", "", nameless),
        Finding.of("class name", "that several classes have", "", several),
        Finding.of("class name", "in several spellings", "", alike),
    ]


def _left_out_oddly(data: CocoDataset) -> list[Finding]:
    """Annotations that are left out although they are not marked, and images that are too small."""
    by_reason = defaultdict(list)
    for each in data.left_out:
        by_reason[each.reason].append(f"annotation {each.annotation_id}")
    odd = [reason for reason in by_reason if reason not in (*USUAL, "within the first pixel")]
    images, left_out = _left_out_images(data)
    small = _names(images, left_out[images.sizes[left_out].min(axis=1) < MIN_SIZE])
    return [
        *(Finding.of("annotation", f"left out: {reason}", "", by_reason[reason]) for reason in sorted(odd)),
        Finding("polygon", "left out of objects with others: fewer than six numbers", "", data.dropped_parts),
        Finding.of("image", f"left out: a side is below {MIN_SIZE} pixels", "", small),
    ]


def _left_out_images(data: CocoDataset) -> tuple[Images, npt.NDArray[np.int64]]:
    """All images, and the rows of those that are not trained on."""
    return data.all_records.images, np.setdiff1d(data.all_records.rows, data.records.rows)


def _names(images: Images, rows: npt.NDArray[np.int64]) -> list[str]:
    """Names of files, without their folders."""
    return [Path(images.names[row]).name for row in rows.tolist()]


def _notes(data: CocoDataset) -> list[Finding]:
    counts = Counter(each.reason for each in data.left_out)
    images, left_out = _left_out_images(data)
    empty = _names(images, left_out[images.sizes[left_out].min(axis=1) >= MIN_SIZE])
    return [
        Finding.of("image", "left out: without objects to learn", "data.keep_empty = true keeps them", empty),
        *(Finding("annotation", f"left out: {reason}", "", counts[reason]) for reason in USUAL),
    ]


def _classes(data: CocoDataset, objects: Objects) -> tuple[ClassCount, ...]:
    rows, owners = data.records.owned()
    labels = data.records.objects.labels[rows]
    pairs = np.unique(np.stack((owners, labels), axis=1), axis=0)  # image and class
    images = Counter(pairs[:, 1].tolist())
    small, large = objects.areas < SMALL, objects.areas >= LARGE
    return tuple(
        ClassCount(
            name,
            images[label],
            int((labels == label).sum()),
            int((small & (labels == label)).sum()),
            int((~small & ~large & (labels == label)).sum()),
            int((large & (labels == label)).sum()),
        )
        for label, name in enumerate(data.class_names)
    )
