"""Analysis of a training set before the first step: errors, warnings, and what is left out."""

from array import array
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask

from condinst_deploy.contract import Preprocessing
from condinst_deploy.data.annotation_arrays import Images, Instance, Polygons, Record, Records
from condinst_deploy.data.annotation_checks import Reason
from condinst_deploy.data.coco import MIN_SIZE, CocoDataset
from condinst_deploy.data.data_report import ClassCount, DataReport, Finding
from condinst_deploy.data.learnable import learnable
from condinst_deploy.imaging.image_sizes import Header, headers_of

SMALL, LARGE = 32**2, 96**2
"""COCO's limits of size, in pixels of area."""

BEYOND = 1.0
"""Pixels by which a polygon may leave its image without a finding."""

USUAL: tuple[Reason, ...] = ("crowd", "marked ignore")
"""Reasons to leave an annotation out that its author chose."""

DIFFERENT = 0.5
"""Overlap (IoU) of an object's box and its mask's below which the two are said to differ."""


class _Objects(NamedTuple):
    """All objects to learn, one row each."""

    ids: list[int]
    boxes: npt.NDArray[np.float64]  # (n, 4) xyxy
    extents: npt.NDArray[np.float64]  # (n, 4) xyxy of the masks
    centres: npt.NDArray[np.float64]  # (n, 2) x, y
    areas: npt.NDArray[np.float64]  # (n,)
    sizes: npt.NDArray[np.int64]  # (n, 2) height, width of the image
    polygons: npt.NDArray[np.bool_]  # (n,) the mask is polygons


def analyse(data: CocoDataset, preprocessing: Preprocessing, short_sides: Sequence[int]) -> DataReport:
    """Look at every annotation and at the header of every image that is trained on.

    Args:
        data: a training set.
        preprocessing: how its images are resized.
        short_sides: that images are trained at.
    """
    objects = _objects(data.records)
    sizes, unreadable = _header_findings(data.records)
    normalised, corner = _normalised(data, objects)
    outside, beyond = _outside(objects)
    errors = [unreadable, *sizes, normalised, outside]
    learnt = learnable(objects.boxes, objects.centres, objects.sizes, preprocessing, short_sides)
    advice = "they are too small or too thin: train at larger sizes"
    unlearnable = Finding.of(
        "objects that no pyramid level can learn at these sizes", advice, _chosen(objects, ~learnt)
    )
    warnings = [corner, beyond, *_duplicates(data.records), *_left_out_oddly(data), _differing(objects), unlearnable]
    classes = _classes(data, objects)
    warnings.append(Finding.of("classes without an object to learn", "", [c.name for c in classes if not c.objects]))
    return DataReport(
        annotations=str(data.annotations),
        images=len(data.records),
        listed=len(data.all_records),
        classes=classes,
        errors=_present(errors),
        warnings=_present(warnings),
        notes=_present(_notes(data)),
    )


def _present(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    return tuple(finding for finding in findings if finding.count)


def _chosen(objects: _Objects, mask: npt.NDArray[np.bool_]) -> list[str]:
    return [f"annotation {objects.ids[i]}" for i in np.flatnonzero(mask)]


def _objects(records: Records) -> _Objects:
    rows, owners = records.owned()
    objects, shapes, polygons = records.objects, array("d"), array("b")
    for index, (height, width) in zip(rows.tolist(), records.sizes[owners].tolist(), strict=True):
        instance = objects.instance(index, (height, width))
        shapes.extend(_shape(instance))
        polygons.append(isinstance(instance.segmentation, tuple))
    shape, annotated = np.array(shapes, dtype=np.float64).reshape(-1, 7), objects.areas[rows]
    return _Objects(
        ids=objects.ids[rows].tolist(),
        boxes=objects.boxes[rows],
        extents=shape[:, :4],
        centres=shape[:, 4:6],
        areas=np.where(np.isnan(annotated), shape[:, 6], annotated),
        sizes=records.sizes[owners],
        polygons=np.array(polygons, dtype=np.bool_),
    )


def _shape(instance: Instance) -> tuple[float, ...]:
    """Extent (4), centre of mass (2) and area of a mask; an RLE's centre is that of its extent."""
    if isinstance(instance.segmentation, tuple):
        return _polygon_shape(instance.segmentation)
    x, y, width, height = (float(value) for value in coco_mask.toBbox(instance.segmentation))
    area = float(coco_mask.area(instance.segmentation))
    return x, y, x + width, y + height, x + width / 2, y + height / 2, area


def _polygon_shape(parts: Polygons) -> tuple[float, ...]:
    area, moment = 0.0, np.zeros(2)
    points = [part.reshape(-1, 2) for part in parts]
    for own in points:  # the shoelace formula
        following = np.concatenate((own[1:], own[:1]))
        cross = own[:, 0] * following[:, 1] - following[:, 0] * own[:, 1]
        sign = -1.0 if cross.sum() < 0 else 1.0
        area += sign * cross.sum() / 2
        moment += sign * ((own + following) * cross[:, None]).sum(axis=0) / 6
    together = np.concatenate(points)
    low, high = together.min(axis=0), together.max(axis=0)
    x, y = moment / area if area > 0 else (low + high) / 2
    return float(low[0]), float(low[1]), float(high[0]), float(high[1]), float(x), float(y), area


def _header_findings(records: Sequence[Record]) -> tuple[list[Finding], Finding]:
    """Sizes that differ from the files', by what is wrong with them; and files that cannot be read."""
    exif, swapped, other, unreadable = [], [], [], []
    for record, header in zip(records, headers_of([record.path for record in records]), strict=True):
        if header.problem:
            unreadable.append(f"image {record.image_id}: {record.path.name}, {header.problem}")
        elif header.size != record.size:
            wrong = _sizes_named(record, header)
            if header.turned and header.stored == record.size:
                exif.append(wrong)
            elif header.size == record.size[::-1]:
                swapped.append(wrong)
            else:
                other.append(wrong)
    return [
        Finding.of(
            "images that EXIF turns on their side, annotated for the pixels as stored",
            "images are turned upright before training: annotate the upright image, or remove the EXIF orientation",
            exif,
        ),
        Finding.of("images whose height and width are annotated the other way round", "", swapped),
        Finding.of("images of another size than annotated", "annotations must be of the files themselves", other),
    ], Finding.of("images that cannot be read", "", unreadable)


def _sizes_named(record: Record, header: Header) -> str:
    (height, width), (own_height, own_width) = record.size, header.size
    return f"image {record.image_id}: {record.path.name} is {own_width}x{own_height}, annotated {width}x{height}"


def _normalised(data: CocoDataset, objects: _Objects) -> tuple[Finding, Finding]:
    """Objects in 0..1 instead of pixels.

    Where their boxes are larger than a pixel, or where most of a file's objects are so, they cannot be right. A few
    others may be objects in the first pixel.
    """
    inside = (objects.extents[:, :2] >= 0).all(axis=1) & (objects.extents[:, 2:] <= 1).all(axis=1)
    inside &= (objects.sizes.min(axis=1, initial=2) > 1) & objects.polygons
    large = objects.boxes[:, 2:].max(axis=1, initial=0) > 2
    wrong, few = _chosen(objects, inside & large), _chosen(objects, inside & ~large)
    others = len(objects.ids) - len(few)
    few += [f"annotation {each.annotation_id}" for each in data.left_out if each.reason == "within the first pixel"]
    if len(few) > others:
        wrong, few = wrong + few, []
    advice = "COCO's numbers are pixels: multiply by the image's width and height"
    return (
        Finding.of("objects whose numbers all lie in 0..1", advice, wrong),
        Finding.of("objects within the first pixel of their image", advice, few),
    )


def _outside(objects: _Objects) -> tuple[Finding, Finding]:
    """Masks that are outside the image, and polygons that leave it."""
    height, width = objects.sizes[:, 0], objects.sizes[:, 1]
    x1, y1, x2, y2 = objects.extents.T
    nothing = ((x1 >= width) | (y1 >= height) | (x2 <= 0) | (y2 <= 0)) & objects.polygons
    leaves = (x1 < -BEYOND) | (y1 < -BEYOND) | (x2 > width + BEYOND) | (y2 > height + BEYOND)
    wrong, odd = _chosen(objects, nothing), _chosen(objects, leaves & ~nothing)
    return (
        Finding.of("objects whose polygons lie outside their image", "they belong to another image or size", wrong),
        Finding.of("objects whose polygons leave their image", "they are cut off at its border", odd),
    )


def _differing(objects: _Objects) -> Finding:
    """Objects whose box and mask overlap by less than half."""
    a, b = objects.boxes, objects.extents
    overlap = (np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2])).clip(0).prod(axis=1)
    both = (a[:, 2:] - a[:, :2]).prod(axis=1) + (b[:, 2:] - b[:, :2]).prod(axis=1) - overlap
    what, advice = "objects whose box is not their mask's (overlap below one half)", "boxes are [x, y, width, height]"
    return Finding.of(what, advice, _chosen(objects, overlap < DIFFERENT * both))


def _duplicates(records: Sequence[Record]) -> list[Finding]:
    """Files that are listed twice, and objects that are annotated twice."""
    files = Counter(record.path for record in records)
    twice = []
    for record in records:
        seen = set()
        for instance in record.instances:
            key = (instance.label, instance.box, _content(instance))
            if key in seen:
                twice.append(f"annotation {instance.annotation_id}")
            seen.add(key)
    return [
        Finding.of("files listed as several images", "", [path.name for path, n in files.items() if n > 1]),
        Finding.of("objects annotated a second time, with the same class, box and mask", "", twice),
    ]


def _content(instance: Instance) -> bytes:
    segmentation = instance.segmentation
    if isinstance(segmentation, tuple):
        return b"|".join(part.tobytes() for part in segmentation)
    counts = segmentation["counts"]
    return counts if isinstance(counts, bytes) else str(counts).encode()


def _left_out_oddly(data: CocoDataset) -> list[Finding]:
    """Annotations that are left out although they are not marked, and images that are too small."""
    by_reason = defaultdict(list)
    for each in data.left_out:
        by_reason[each.reason].append(f"annotation {each.annotation_id}")
    odd = [reason for reason in by_reason if reason not in (*USUAL, "within the first pixel")]
    images, left_out = _left_out_images(data)
    small = _names(images, left_out[images.sizes[left_out].min(axis=1) < MIN_SIZE])
    return [
        *(Finding.of(f"annotations left out: {reason}", "", by_reason[reason]) for reason in sorted(odd)),
        Finding("polygons left out of objects with others: fewer than six numbers", "", data.dropped_parts),
        Finding.of(f"images left out: a side is below {MIN_SIZE} pixels", "", small),
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
        Finding.of("images left out: without objects to learn", "data.keep_empty = true keeps them", empty),
        *(Finding(f"annotations left out: {reason}", "", counts[reason]) for reason in USUAL),
    ]


def _classes(data: CocoDataset, objects: _Objects) -> tuple[ClassCount, ...]:
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
