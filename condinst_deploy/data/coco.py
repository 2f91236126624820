"""Data sets in COCO's format, read with checks. Training targets are chosen as in mmdetection's CocoDataset."""

import json
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask

from condinst_deploy.errors import DataError, ImageError
from condinst_deploy.imaging.decode import RGBArray, rgb_from
from condinst_deploy.masks import RLE, BoolArray
from condinst_deploy.masks.rle import run_lengths_from_counts

Polygons = tuple[npt.NDArray[np.float64], ...]
"""Parts `(2m,)`: x0, y0, x1, y1, ..."""

Segmentation = Polygons | RLE

Scalar = TypeVar("Scalar", int, str)

MIN_SIZE = 32
"""Images with a side below so many pixels are not trained on."""

FARTHEST = 10
"""Polygons may leave the image by so many times its longer side; rasterising takes memory for all of it."""

LISTED = 5
"""How many of many an error names."""


@dataclass(frozen=True, eq=False)
class Sample:
    """One image and its instances; crowds are not among them."""

    image_id: int
    image: npt.NDArray[np.uint8]  # (H, W, 3) RGB
    boxes: npt.NDArray[np.float32]  # (n, 4) xyxy, pixels
    labels: npt.NDArray[np.int64]  # (n,)
    segmentations: tuple[Segmentation, ...]  # n, as annotated


class _Instance(NamedTuple):
    box: tuple[float, float, float, float]  # xyxy
    label: int
    segmentation: Segmentation


class _Record(NamedTuple):
    image_id: int
    path: Path
    size: tuple[int, int]  # height, width
    instances: list[_Instance]


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
    ) -> None:
        """Read and check the annotations, and see that every image is there.

        Args:
            annotations: COCO-format JSON.
            images: folder of the images; None: they are not looked for.
            training: leave out images without instances and small ones.
            keep_empty: keep images without instances all the same.
            min_size: shortest side of an image to train on, in pixels.
            content: what `coco_content` read from the file, if it was read already.
            limit: take the first so many images; the others need not be there.

        Raises:
            DataError: the file is not in COCO's format, an annotation is malformed (named by its id), an image
                is missing (named), or nothing is left.
        """
        self.annotations = annotations
        content = coco_content(annotations) if content is None else content
        categories = sorted(_by_id(content["categories"], "category", annotations).items())
        self.category_ids = tuple(category_id for category_id, _ in categories)
        self.class_names = tuple(_field(c, "name", str, f"{annotations}: category {i}") for i, c in categories)
        records = _records(content["images"], images or Path(), annotations)
        labels = {category_id: label for label, category_id in enumerate(self.category_ids)}
        for annotation_id, annotation in _by_id(content["annotations"], "annotation", annotations).items():
            _add_instance(annotation, records, labels, f"{annotations}: annotation {annotation_id}")
        self._records = list(records.values())
        if training:
            self._records = [p for p in self._records if min(p.size) >= min_size and (keep_empty or p.instances)]
        if not self._records:
            raise DataError(f"{annotations} has no images to {'train on' if training else 'look at'}")
        self._records = self._records[:limit]
        self.image_ids = tuple(p.image_id for p in self._records)
        self.paths = tuple(p.path for p in self._records)
        if images is not None:
            _check_present(self.paths, images)

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Sample:
        """Decode an image.

        Raises:
            DataError: it cannot be decoded or has another size than annotated.
        """
        record = self._records[index]
        image = _decoded(record.path)
        if image.shape[:2] != record.size:
            raise DataError(
                f"{record.path} is {image.shape[1]}x{image.shape[0]}, but image {record.image_id} of"
                f" {self.annotations} is annotated as {record.size[1]}x{record.size[0]}"
            )
        return Sample(
            image_id=record.image_id,
            image=image,
            boxes=np.array([i.box for i in record.instances], dtype=np.float32).reshape(-1, 4),
            labels=np.array([i.label for i in record.instances], dtype=np.int64),
            segmentations=tuple(i.segmentation for i in record.instances),
        )


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


def coco_content(path: Path) -> dict[str, Any]:
    """The lists of images, annotations and categories of a COCO-format file, in UTF-8, UTF-16 or UTF-32.

    Raises:
        DataError: it cannot be read, or one of them is not a list of dictionaries.
    """
    try:
        content: dict[str, Any] = json.loads(path.read_bytes())
    except OSError as e:
        raise DataError(f"{path} cannot be read ({e.strerror or e}); expected a COCO-format JSON file") from e
    except (ValueError, RecursionError) as e:
        raise DataError(f"{path} is not JSON ({e}); expected a COCO-format file") from e
    for key in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise DataError(f"{path} is not in COCO's format: it has no list {key!r}")
        if not all(isinstance(entry, dict) for entry in content[key]):
            raise DataError(f"{path} is not in COCO's format: {key!r} has entries that are not objects")
    return content


def _by_id(entries: list[dict[str, Any]], kind: str, path: Path) -> dict[int, dict[str, Any]]:
    for position, entry in enumerate(entries, start=1):
        _field(entry, "id", int, f"{path}: {kind} number {position}")
    twice = [str(i) for i, count in Counter(entry["id"] for entry in entries).items() if count > 1]
    if twice:
        raise DataError(f"{path}: {kind} ids are not unique: {_listed(twice)}")
    return {entry["id"]: entry for entry in entries}


def _records(entries: list[dict[str, Any]], folder: Path, path: Path) -> dict[int, _Record]:
    images = {}
    for image_id, entry in _by_id(entries, "image", path).items():
        where = f"{path}: image {image_id}"
        size = (_field(entry, "height", int, where), _field(entry, "width", int, where))
        if min(size) < 1:
            raise DataError(f"{where} has height {size[0]} and width {size[1]}; expected at least 1")
        images[image_id] = _Record(image_id, folder / _field(entry, "file_name", str, where), size, [])
    return images


def _field(entry: dict[str, Any], name: str, kind: type[Scalar], where: str) -> Scalar:
    value = entry.get(name)
    if not isinstance(value, kind) or isinstance(value, bool):
        raise DataError(f"{where} has {name!r} {_shortened(value)}; expected {_KINDS[kind]}")
    return value


_KINDS: dict[type, str] = {int: "a whole number", str: "text"}


def _add_instance(annotation: dict[str, Any], images: dict[int, _Record], labels: dict[int, int], where: str) -> None:
    image_id, category_id = (_field(annotation, key, int, where) for key in ("image_id", "category_id"))
    if image_id not in images:
        raise DataError(f"{where} has image_id {image_id}, which no image has")
    if category_id not in labels:
        raise DataError(f"{where} has category_id {category_id}, which no category has")
    record = images[image_id]
    x, y, width, height = checked_bbox(annotation.get("bbox"), where)
    area = annotation.get("area", 1)
    if not is_finite(area):
        raise DataError(f"{where} has area {_shortened(area)}; expected a finite number")
    if is_crowd(annotation, where) or annotation.get("ignore") or area <= 0:
        return
    inside_x = min(x + width, record.size[1]) - max(x, 0)
    inside_y = min(y + height, record.size[0]) - max(y, 0)
    if inside_x <= 0 or inside_y <= 0 or width < 1 or height < 1:
        return
    segmentation = checked_segmentation(annotation.get("segmentation"), record.size, where)
    record.instances.append(_Instance((x, y, x + width, y + height), labels[category_id], segmentation))


def is_crowd(annotation: dict[str, Any], where: str) -> bool:
    """Whether an annotation marks a crowd; without `iscrowd` it does not.

    Raises:
        DataError: `iscrowd` is neither 0 nor 1; `where` says whose it is.
    """
    value = annotation.get("iscrowd", 0)
    if (not is_finite(value) and not isinstance(value, bool)) or value not in (0, 1):
        raise DataError(f"{where} has iscrowd {_shortened(value)}; expected 0 or 1")
    return bool(value)


def checked_bbox(bbox: Any, where: str) -> list[float]:
    """A box `[x, y, width, height]`.

    Raises:
        DataError: it is not four finite numbers; `where` says whose it is.
    """
    if not isinstance(bbox, list) or len(bbox) != 4 or not all(is_finite(value) for value in bbox):
        raise DataError(f"{where} has bbox {_shortened(bbox)}; expected four finite numbers x, y, width, height")
    return bbox


def is_finite(value: Any) -> bool:
    """Whether a value from JSON is a number that float64 can hold."""
    # a comparison, for JSON's whole numbers can be too large for a float
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def checked_segmentation(value: Any, size: tuple[int, int], where: str) -> Segmentation:
    """Polygons or an RLE of an image of `size`, `(height, width)`, as annotation and result files have them.

    Raises:
        DataError: it is neither, or damaged; `where` says whose it is.
    """
    if isinstance(value, list) and value:
        return tuple(_polygon(part, size, where) for part in value)
    if isinstance(value, dict):
        return _rle(value, size, where)
    raise DataError(f"{where} has segmentation {_shortened(value)}; expected polygons or an RLE")


def merged_rle(segmentation: Segmentation, size: tuple[int, int]) -> RLE:
    """One RLE of a checked segmentation of an image of `size`, `(height, width)`."""
    if not isinstance(segmentation, tuple):
        return segmentation
    merged: RLE = coco_mask.merge(coco_mask.frPyObjects([part.tolist() for part in segmentation], *size))
    return merged


def _polygon(part: Any, size: tuple[int, int], where: str) -> npt.NDArray[np.float64]:
    if not isinstance(part, list):
        raise DataError(f"{where} has {_shortened(part)} where a polygon is expected: [[x0, y0, x1, y1, ...], ...]")
    if len(part) < 6 or len(part) % 2:
        raise DataError(f"{where} has a polygon of {len(part)} numbers; expected an even count of at least 6")
    try:
        polygon = np.array(part, dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as e:
        raise DataError(f"{where} has a polygon that is not a list of numbers: {_shortened(part)}") from e
    if not (np.abs(polygon) <= FARTHEST * max(size)).all():
        raise DataError(f"{where} has a polygon with a number that is not finite or far outside the image")
    return polygon


def _rle(value: dict[str, Any], size: tuple[int, int], where: str) -> RLE:
    height, width = size
    if value.get("size") != [height, width]:
        raise DataError(f"{where} has an RLE of size {_shortened(value.get('size'))}; its image is {[height, width]}")
    counts = value.get("counts")
    runs = _runs(counts)
    if runs is None or (runs < 0).any() or runs.sum() != height * width:
        raise DataError(f"{where} has a damaged RLE; expected runs that add up to {height} * {width} pixels")
    if isinstance(counts, str):
        return {"size": [height, width], "counts": counts.encode()}
    compressed: RLE = coco_mask.frPyObjects({"size": [height, width], "counts": runs.tolist()}, height, width)
    return compressed


def _runs(counts: Any) -> npt.NDArray[np.int64] | None:
    """Run lengths of an RLE's counts, compressed or not; None where they are neither."""
    if isinstance(counts, str):
        return run_lengths_from_counts(counts.encode())
    if isinstance(counts, list) and all(type(n) is int and 0 <= n < 2**31 for n in counts):
        return np.array(counts, dtype=np.int64)
    return None


def _check_present(paths: Iterable[Path], folder: Path) -> None:
    if not folder.is_dir():
        raise DataError(f"no folder of images at {folder}")
    missing = [path.name for path in paths if not path.is_file()]
    if missing:
        raise DataError(f"{len(missing)} images are missing from {folder}: {_listed(missing)}")


def _listed(names: list[str]) -> str:
    return ", ".join(names[:LISTED]) + (", ..." if len(names) > LISTED else "")


def _shortened(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
