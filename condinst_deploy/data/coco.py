"""Data sets in COCO's format, read with checks. Training targets are chosen as in mmdetection's CocoDataset."""

import os
import unicodedata
from collections import Counter
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask

from condinst_deploy.contract.artifacts import check_folder
from condinst_deploy.data.annotation_arrays import (
    Images,
    ObjectCollector,
    Paths,
    Polygons,
    Records,
    Segmentation,
    Texts,
    id_array,
)
from condinst_deploy.data.annotation_blocks import BLOCK, Known, block_of
from condinst_deploy.data.annotation_checks import LeftOut, check_annotated_size, field_of, is_place, object_of
from condinst_deploy.data.coco_file import coco_content, has_masks, no_collection
from condinst_deploy.errors import DataError, ImageError
from condinst_deploy.imaging.decode import RGBArray, rgb_from
from condinst_deploy.imaging.image_sizes import LONGEST_SIDE, MOST_PIXELS
from condinst_deploy.masks import BoolArray
from condinst_deploy.shown_text import counted, shown, shown_value

MIN_SIZE = 32
"""Least side in pixels of an image that is trained on."""

LARGEST_ID = (1 << 64) - 1

LARGEST_TRAINED_ID = (1 << 63) - 1
"""Largest category id that a model's file holds."""

MOST_SCANNED = 1_000
"""Entries of a folder that are looked at for an example."""

LISTED = 5
"""Number of entries that an error lists."""


@dataclass(frozen=True, eq=False)
class Sample:
    """One image and its instances; crowds are not among them."""

    image_id: int
    image: npt.NDArray[np.uint8]  # (H, W, 3) RGB
    boxes: npt.NDArray[np.float32]  # (n, 4) xyxy, pixels
    labels: npt.NDArray[np.int64]  # (n,)
    segmentations: tuple[Segmentation, ...]  # n, as annotated


class CocoDataset:
    """Images of a folder and the instances that a COCO-format JSON file gives them.

    Categories sorted by id are labels 0, 1, ... Instances that are crowds, marked `ignore`, without area, below
    one pixel, or outside the image are left out.

    Attributes:
        annotations: the JSON file.
        class_names: name of each label.
        category_ids: id of each label.
        image_ids: id of each image, in the file's order.
        paths: file of each image.
        records: the images with their objects; in arrays, which processes share.
        all_records: also those that are not trained on, in the file's order.
        boxes_only: whether each object's mask is its box.
        left_out: annotations that are no objects to learn.
        dropped_parts: polygons of fewer than six numbers that were taken out of objects with others.
    """

    def __init__(
        self,
        annotations: Path,
        images: Path | None,
        training: bool,
        *,
        keep_empty: bool = False,
        min_size: int = MIN_SIZE,
        content: dict[str, Any] | None = None,
        limit: int | None = None,
        boxes_only: bool = False,
        block: int = BLOCK,
    ) -> None:
        """Read and check the annotations, and see that every image is there.

        Args:
            annotations: COCO-format JSON.
            images: folder of the images; None: they are not looked for.
            training: leave out images without instances and small ones.
            keep_empty: keep images without instances all the same.
            min_size: shortest side of an image to train on, in pixels.
            content: what `coco_content` read from the file, if it was read already.
            limit: number of images, from the first on; the others need not exist.
            boxes_only: ignore segmentations; each object's mask is its box.
            block: number of annotations that are checked together.

        Raises:
            DataError: the file is not in COCO's format, an annotation is malformed (named by its id), an image
                is missing (named), or nothing is left.
        """
        self.annotations = annotations
        self.boxes_only = boxes_only
        self.left_out: list[LeftOut] = []
        self.dropped_parts = 0
        with no_collection():
            content = coco_content(annotations) if content is None else content
            categories = sorted(_by_id(content["categories"], "category", annotations).items())
            self.category_ids = tuple(category_id for category_id, _ in categories)
            if training and categories and max(map(abs, self.category_ids)) > LARGEST_TRAINED_ID:
                raise DataError(
                    f"{annotations} has a category with id {max(self.category_ids, key=abs)}; expected ids of 64 bits"
                    " with a sign, as models hold them"
                )
            self.class_names = tuple(field_of(c, "name", str, f"{annotations}: category {i}") for i, c in categories)
            listed = _images(content["images"], images or Path(), annotations)
            labels = {category_id: label for label, category_id in enumerate(self.category_ids)}
            rows = {image_id: row for row, image_id in enumerate(listed.ids.tolist())}
            known = Known(rows, listed.sizes, labels)
            entries = boxes_as_masks(content["annotations"]) if boxes_only else content["annotations"]
            objects = self._collected(entries, known, block).arrays(len(rows))
        self.all_records = Records(listed, objects, np.arange(len(rows)))
        kept = (listed.sizes.min(axis=1) >= min_size) & (keep_empty | (np.diff(objects.starts) > 0))
        chosen = np.flatnonzero(kept) if training else self.all_records.rows
        self.records = Records(listed, objects, chosen[:limit])
        if not len(self.records):
            small = int((listed.sizes.min(axis=1) < min_size).sum())
            nothing = self._why_nothing(len(entries), small, min_size)
            what = f"to train on{nothing}" if training else "to look at: its list 'images' is empty"
            raise DataError(f"{annotations} has no images {what}")
        self.image_ids: tuple[int, ...] = tuple(listed.ids[self.records.rows].tolist())
        self.paths = Paths(self.records)
        if images is not None:
            _check_present(self.records, images)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Sample:
        """Decode an image.

        Raises:
            DataError: it cannot be decoded or has another size than annotated.
        """
        record = self.records[index]
        image = _decoded(record.path)
        height, width = image.shape[:2]
        check_annotated_size(str(record.path), (height, width), record.size, record.image_id, self.annotations)
        return Sample(
            image_id=record.image_id,
            image=image,
            boxes=np.array([i.box for i in record.instances], dtype=np.float32).reshape(-1, 4),
            labels=np.array([i.label for i in record.instances], dtype=np.int64),
            segmentations=tuple(i.segmentation for i in record.instances),
        )

    @property
    def landscape(self) -> npt.NDArray[np.bool_]:
        """Return for each image whether it is at least as wide as high."""
        sizes = self.records.sizes
        return np.asarray(sizes[:, 1] >= sizes[:, 0], dtype=np.bool_)

    def _why_nothing(self, annotations: int, small: int, min_size: int) -> str:
        """What the file has instead of images to train on: counts, and why each annotation and image is none.

        Args:
            annotations: in the file.
            small: images with a side below `min_size`.
            min_size: in pixels.
        """
        counts = Counter(each.reason for each in self.left_out)
        first = {each.reason: each.annotation_id for each in reversed(self.left_out)}
        listed = ", ".join(f"{count} {reason} (annotation {first[reason]}, ...)" for reason, count in counts.items())
        has = f": it has {counted(len(self.all_records), 'image')} and {counted(annotations, 'annotation')}"
        if small:
            has += f"; {counted(small, 'image')} left out: a side is below {min_size} pixels"
        if not annotations:
            has += "; expected objects to learn, with bbox and segmentation"
        pixels = "; COCO's numbers are pixels, not 0..1" if "within the first pixel" in counts else ""
        return has + (f"; annotations left out: {listed}{pixels}" if listed else "")

    def _collected(self, annotations: list[dict[str, Any]], known: Known, size: int) -> ObjectCollector:
        """All objects to learn; what is not learnt is noted in `left_out`."""
        _by_id(annotations, "annotation", self.annotations)
        collector = ObjectCollector()
        for first in range(0, len(annotations), size):
            several = annotations[first : first + size]
            block, others = block_of(several, first, known)
            collector.extend(block)
            for i in others:
                annotation = several[i]
                found = object_of(annotation, known, f"{self.annotations}: annotation {annotation['id']}")
                if isinstance(found, LeftOut):
                    self.left_out.append(found)
                    continue
                collector.add(first + i, known.rows[annotation["image_id"]], found)
                if isinstance(found.segmentation, tuple):
                    self.dropped_parts += len(annotation["segmentation"]) - len(found.segmentation)
        # new objects for the ids: one of the file's would keep the memory around it from being returned
        ids = id_array([each.annotation_id for each in self.left_out]).tolist()
        self.left_out = [LeftOut(own, each.reason) for own, each in zip(ids, self.left_out, strict=True)]
        return collector


def evaluation_set(
    annotations: Path, images: Path | None, content: dict[str, Any] | None = None, limit: int | None = None
) -> CocoDataset:
    """A data set to evaluate on: all images. If no object has a mask, it is one of boxes only.

    Args and Raises: as `CocoDataset`.
    """
    content = coco_content(annotations) if content is None else content
    boxes_only = not has_masks(content)
    return CocoDataset(annotations, images, training=False, content=content, limit=limit, boxes_only=boxes_only)


def boxes_as_masks(annotations: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Annotations with their boxes as polygons; malformed boxes are left unchanged; a later check names them."""
    return [
        annotation | {"segmentation": [_rectangle(*box)]}
        if isinstance(box := annotation.get("bbox"), list) and len(box) == 4 and all(is_place(each) for each in box)
        else annotation
        for annotation in annotations
    ]


def _rectangle(x: float, y: float, width: float, height: float) -> list[float]:
    return [x, y, x + width, y, x + width, y + height, x, y + height]


def masks_at(sample: Sample, size: tuple[int, int], flipped: bool = False) -> BoolArray:
    """Masks `(n, h, w)` of a sample resized to `size`, and mirrored if `flipped`, as mmdetection makes them.

    Polygons are scaled, mirrored and then rasterised, which differs by single pixels from a mirrored bitmap; bitmaps
    are sampled at `floor(i * old / new)` and then mirrored. What lies beyond the image is cut off at the image, where
    mmdetection cuts at its padding.
    """
    height, width = sample.image.shape[:2]
    masks = np.zeros((len(sample.segmentations), *size), dtype=np.bool_)
    for mask, segmentation in zip(masks, sample.segmentations, strict=True):
        if isinstance(segmentation, tuple):
            mask[:] = _rasterised(segmentation, (height, width), size, flipped)
        else:
            bitmap = _nearest(coco_mask.decode(segmentation), size)
            mask[:] = bitmap[:, ::-1] if flipped else bitmap
    return masks


def _rasterised(polygons: Polygons, old: tuple[int, int], new: tuple[int, int], flipped: bool) -> BoolArray:
    scale = np.array([new[1] / old[1], new[0] / old[0]])  # x, y
    scaled = [(part.reshape(-1, 2) * scale).ravel() for part in polygons]
    if flipped:
        for part in scaled:
            part[::2] = new[1] - part[::2]
    return np.asarray(coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(scaled, *new))), dtype=np.bool_)


def _nearest(mask: npt.NDArray[np.uint8], size: tuple[int, int]) -> BoolArray:
    rows, columns = (np.arange(new) * old // new for new, old in zip(size, mask.shape, strict=True))
    return mask[np.ix_(rows, columns)].astype(np.bool_)


def _decoded(path: Path) -> RGBArray:
    try:
        return rgb_from(path)  # the decoder of inference
    except ImageError as e:
        raise DataError(str(e)) from e


def _by_id(entries: list[dict[str, Any]], kind: str, path: Path) -> dict[int, dict[str, Any]]:
    for position, entry in enumerate(entries, start=1):
        where = f"{path}: {kind} number {position}"
        if abs(field_of(entry, "id", int, where)) > LARGEST_ID:
            raise DataError(f"{where} has id {shown_value(entry['id'])}; expected a number of 64 bits")
    twice = [str(i) for i, count in Counter(entry["id"] for entry in entries).items() if count > 1]
    if twice:
        raise DataError(f"{path}: {kind} ids are not unique: {_listed(twice)}; expected each of them once")
    return {entry["id"]: entry for entry in entries}


def _images(entries: list[dict[str, Any]], folder: Path, path: Path) -> Images:
    names, sizes = [], []
    by_id = _by_id(entries, "image", path)
    for image_id, entry in by_id.items():
        where = f"{path}: image {image_id}"
        size = (field_of(entry, "height", int, where), field_of(entry, "width", int, where))
        if not (min(size) >= 1 and max(size) <= LONGEST_SIDE and size[0] * size[1] <= MOST_PIXELS):
            raise DataError(
                f"{where} has height {shown_value(size[0])} and width {shown_value(size[1])}; expected 1 to"
                f" {LONGEST_SIDE}, and at most {MOST_PIXELS} pixels"
            )
        name = field_of(entry, "file_name", str, where)
        if not name:
            raise DataError(f"{where} has 'file_name' ''; expected the name of a file")
        names.append(name)
        sizes.append(size)
    return Images(folder, Texts(names), id_array(list(by_id)), np.array(sizes, dtype=np.int64).reshape(-1, 2))


def _check_present(records: Records, folder: Path) -> None:
    check_folder(folder, "the folder of the annotated images", DataError)
    names, rows = records.images.names, records.rows.tolist()
    missing = [row for row, path in zip(rows, Paths(records), strict=True) if not _is_file(path)]
    if missing:
        listed = _listed([f"{shown(names[row], 200)} (image {records.images.ids[row]})" for row in missing])
        are = "is" if len(missing) == 1 else "are"
        searched = _searched(folder, names[missing[0]])
        raise DataError(f"{counted(len(missing), 'image')} {are} missing from {folder}: {listed}; {searched}")


def _searched(folder: Path, name: str) -> str:
    """Where a missing image was looked for, and what is in the folder instead."""
    place = f"the first was looked for at {shown(folder / name, 200)}"
    try:
        with os.scandir(folder) as entries:
            present = sorted(entry.name for entry in islice(entries, MOST_SCANNED))
    except OSError:
        return place
    example = f"has {shown(present[0], 200)}" + (", ..." if len(present) > 1 else "") if present else "is empty"
    relative = f"{place}; this folder {example}: file_name is relative to the folder of the images"
    return relative + _other_spelling(folder, name, present)


def _other_spelling(folder: Path, name: str, present: list[str]) -> str:
    """Which file of the folder a missing image may be; "" if none is like it."""
    last = name.replace("\\", "/").rpartition("/")[2]
    if last and _is_file(folder / last):
        return f"; it has {shown(last, 200)}: write file_name without what stands before it"
    alike = [each for each in present if _plain(each) == _plain(last)]
    if not alike:
        return ""
    if last in alike:
        return f"; {shown(last, 200)} in it is not a file"
    same_case = unicodedata.normalize("NFC", alike[0]) == unicodedata.normalize("NFC", last)
    how = "whose accents are encoded in another Unicode form" if same_case else "with other upper and lower case"
    return f"; it has {shown(alike[0], 200)}, the same name {how}"


def _plain(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # the name is too long, or its folder may not be read
        return False


def _listed(names: list[str]) -> str:
    return ", ".join(names[:LISTED]) + (", ..." if len(names) > LISTED else "")
