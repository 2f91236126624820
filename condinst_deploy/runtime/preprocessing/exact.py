"""Preprocessing with the pixels of the reference implementations."""

from typing import Any

from condinst_deploy.imaging.decode import rgb_from
from condinst_deploy.runtime.observer import DECODE, RESIZE, Observer, observed
from condinst_deploy.runtime.preprocessing.types import GeometryOf, InputWriter, Prepared


class ExactPreparation:
    """Decodes with libjpeg-turbo and Pillow, and resizes to Pillow's bytes, as the references do.

    The backend's writer decides where an image is resized: with Pillow, or on a GPU by `kernels/resize.py`.
    """

    def __init__(
        self, geometry_of: GeometryOf, writer: InputWriter, observer: Observer | None = None, keep_images: bool = True
    ) -> None:
        self._geometry_of, self._writer, self._observer, self._keeps = geometry_of, writer, observer, keep_images

    def __call__(self, source: Any, name: str) -> Prepared:
        """Prepare one image; see `rgb_from` for the kinds of image."""
        with observed(self._observer, DECODE, (name,)):
            image = rgb_from(source)
        geometry = self._geometry_of(image)
        with observed(self._observer, RESIZE, (name,)):
            inputs = self._writer.from_image(image, geometry)
        return Prepared(image if self._keeps else None, geometry, inputs)
