"""A decoded image on its way to a GPU that resizes it: pixels and coefficients in one block of memory."""

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from condinst_deploy.contract import ImageGeometry, NetworkInputs
from condinst_deploy.imaging.decode import RGBArray
from condinst_deploy.imaging.resize_tables import CoefficientTable, ResizeTables, resize_tables
from condinst_deploy.kernels.resize_launch import ResizeNumbers
from condinst_deploy.runtime.host_inputs import inputs_of_image

ALIGNMENT = 256
"""Of the parts of a block, in bytes; kernels are compiled for addresses that are multiples of 16."""

Memory = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class DecodedLayout:
    """Where the parts of one image lie in its block, and how it is resized.

    The parts are the pixels `(H, W, 3)` uint8, and the coefficients of the rows and of the columns, int32.
    """

    geometry: ImageGeometry
    tables: ResizeTables

    @classmethod
    def of(cls, geometry: ImageGeometry) -> Self:
        """The layout for an image of these sizes."""
        return cls(geometry, resize_tables(geometry.original, geometry.resized))

    @property
    def image_bytes(self) -> int:
        """Bytes of the pixels, which begin the block."""
        height, width = self.geometry.original
        return height * width * 3

    @property
    def rows_at(self) -> int:
        """Byte at which the coefficients of the rows begin."""
        return _aligned(self.image_bytes)

    @property
    def columns_at(self) -> int:
        """Byte at which the coefficients of the columns begin."""
        return _aligned(self.rows_at + self.tables.rows.nbytes)

    @property
    def nbytes(self) -> int:
        """Bytes of the block."""
        return self.columns_at + self.tables.columns.nbytes

    @property
    def numbers(self) -> ResizeNumbers:
        """Whole numbers of the kernel's launch."""
        geometry, columns_first = self.geometry, self.tables.columns_first
        width = geometry.original[1]
        return ResizeNumbers.of(width, geometry.resized, geometry.padded, columns_first=columns_first)

    def write(self, memory: Memory, image: RGBArray) -> None:
        """Write an image and its coefficients into a block."""
        memory[: self.image_bytes].reshape(image.shape)[...] = image
        for start, table in ((self.rows_at, self.tables.rows), (self.columns_at, self.tables.columns)):
            _part(memory, start, table)[...] = table

    def on_host(self, memory: Memory) -> NetworkInputs:
        """Return the image of a block resized by Pillow, as a batch of it alone."""
        image = memory[: self.image_bytes].reshape(*self.geometry.original, 3)
        return inputs_of_image(image, self.geometry)


def _part(memory: Memory, start: int, table: CoefficientTable) -> CoefficientTable:
    return memory[start : start + table.nbytes].view(np.int32).reshape(table.shape)


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
