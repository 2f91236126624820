"""Detections in the forms of labelling and training tools: labelme, YOLO, instance images, cut-outs.

The outline of an instance of several parts, or with holes, is one polygon: lines there and back join its parts, so
that filling it by the even-odd rule gives the mask.
"""

from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from condinst_deploy.contract import InstanceDetections
from condinst_deploy.imaging.decode import RGBArray
from condinst_deploy.support.atomic_write import atomic_path
from condinst_deploy.support.json_text import json_text

TOLERANCE = 0.5
"""Pixels that polygons in files may lie beside the exact outline."""


class Format(StrEnum):
    """Formats of label files. COCO results are written in any case."""

    COCO, LABELME, YOLO = "coco", "labelme", "yolo"


def labelme_content(detections: InstanceDetections, image: str, tolerance: float = TOLERANCE) -> dict[str, Any]:
    """Return the content of a labelme file (version 5): polygons in pixels, the image's path, no pixels.

    An instance without pixels is left out.
    """
    height, width = detections.masks.size
    shapes = [
        {
            "label": name,
            "points": polygon[:-1].tolist(),
            "group_id": None,
            "description": f"score {score:.4f}",
            "shape_type": "polygon",
            "flags": {},
        }
        for name, score, polygon in zip(
            detections.names, detections.scores.tolist(), joined_polygons(detections, tolerance), strict=True
        )
        if polygon is not None
    ]
    return {
        "version": "5.5.0",
        "flags": {},
        "shapes": shapes,
        "imagePath": image,
        "imageData": None,
        "imageHeight": height,
        "imageWidth": width,
    }


def yolo_text(detections: InstanceDetections, tolerance: float = TOLERANCE) -> str:
    """Return the lines of a YOLO segmentation file: label, then x and y of each point as shares of the image's sides.

    An instance without pixels is left out.
    """
    height, width = detections.masks.size
    lines = []
    for label, polygon in zip(detections.labels.tolist(), joined_polygons(detections, tolerance), strict=True):
        if polygon is not None:
            shares = polygon[:-1].astype(np.float64) / (width, height)
            lines.append(" ".join([str(label), *(f"{value:.6f}" for value in shares.ravel())]))
    return "".join(f"{line}\n" for line in lines)


def instance_image(detections: InstanceDetections) -> npt.NDArray[np.uint16]:
    """Return `(H, W)`: 0 where nothing is, k where the k-th detection is; the best one is on top."""
    image = np.zeros(detections.masks.size, dtype=np.uint16)
    for i, (y, x, height, width) in reversed(list(enumerate(detections.masks.windows))):
        image[y : y + height, x : x + width][detections.masks.crop(i)] = i + 1
    return image


def cut_outs(detections: InstanceDetections, image: RGBArray) -> Iterator[tuple[int, npt.NDArray[np.uint8]]]:
    """Yield the number of each detection, from 1, and its pixels: RGBA `(h, w, 4)`, transparent outside the mask."""
    for i, (y, x, height, width) in enumerate(detections.masks.windows):
        if height:
            alpha = detections.masks.crop(i).astype(np.uint8) * 255
            yield i + 1, np.dstack([image[y : y + height, x : x + width], alpha])


def joined_polygons(detections: InstanceDetections, tolerance: float) -> Iterator[npt.NDArray[np.float32] | None]:
    """Yield one closed polygon `(k, 2)` for each detection; None if a mask has no pixels."""
    for rings in detections.masks.polygons(tolerance):
        if not rings:
            yield None
            continue
        # every ring is closed, and the way from the first ring's start to it is gone back
        start = rings[0][:1]
        yield np.concatenate([rings[0], *(part for ring in rings[1:] for part in (ring, start))])


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_labelme(path: Path, detections: InstanceDetections, image: str, tolerance: float = TOLERANCE) -> None:
    """Write a labelme file.

    Raises:
        OutputError: it cannot be written.
    """
    write_text(path, json_text(labelme_content(detections, image, tolerance), str(path), indent=1))
