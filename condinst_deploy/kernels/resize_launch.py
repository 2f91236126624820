"""How the resizing kernel is launched; without PyTorch and Triton, because engines launch it through the driver."""

from typing import NamedTuple, Self

TILE_OUTER, TILE_INNER = 4, 128
"""Output pixels of a program."""

WARPS = 4


class ResizeNumbers(NamedTuple):
    """The kernel's whole numbers, in its order. The axis of the second pass is the outer one."""

    image_outer: int  # bytes from a pixel to the next along the outer axis
    image_inner: int
    resized_outer: int  # pixels
    resized_inner: int
    padded_outer: int
    padded_inner: int
    target_outer: int  # bytes from a pixel to the next in a plane of the target
    target_inner: int

    @classmethod
    def of(cls, width: int, resized: tuple[int, int], padded: tuple[int, int], *, columns_first: bool) -> Self:
        """Return the numbers for an image of `width` pixels in a row; sizes are `(height, width)`."""
        axes = (3 * width, resized[0], padded[0], padded[1]), (3, resized[1], padded[1], 1)
        outer, inner = axes[::-1] if columns_first else axes
        return cls(*(number for pair in zip(outer, inner, strict=True) for number in pair))

    @property
    def grid(self) -> tuple[int, int, int]:
        """Programs."""
        return -(-self.padded_inner // TILE_INNER), -(-self.padded_outer // TILE_OUTER), 1
