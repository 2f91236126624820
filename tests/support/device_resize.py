"""Images resized where the kernels run, as tensors that travel between processes."""

import torch
from torch import Tensor

from condinst_deploy.contract import ImageGeometry
from condinst_deploy.imaging.resize_tables import resize_tables
from condinst_deploy.kernels.resize import resize_into, resize_kernel
from condinst_deploy.runtime.device_inputs import DecodedInputs, DeviceWriter, collated

Size = tuple[int, int]


def resized(image: Tensor, size: Size, padded: Size) -> Tensor:
    """`image (H, W, 3)` resized into `(3, *padded)` that was full of other values."""
    if not image.is_cuda:  # what runs is the kernel's own text
        assert type(resize_kernel).__name__ == "InterpretedFunction"
    tables = resize_tables((image.shape[0], image.shape[1]), size)
    target = torch.full((3, *padded), 165, dtype=torch.uint8, device=image.device)
    rows, columns = (torch.from_numpy(table.copy()).to(image.device) for table in (tables.rows, tables.columns))
    resize_into(target, image, rows, columns, columns_first=tables.columns_first)
    return target


def window_of_resized(image: Tensor, size: Size, window: tuple[int, int, int, int]) -> Tensor:
    """Rows and columns of `image (H, W, 3)` resized to `size`: the launch gets their part of the coefficients alone.

    Args:
        image: the whole image.
        size: of the whole resized image.
        window: first row, first column, rows, columns.
    """
    tables = resize_tables((image.shape[0], image.shape[1]), size)
    top, left, height, width = window
    rows = torch.from_numpy(tables.rows[:, top : top + height].copy())
    columns = torch.from_numpy(tables.columns[:, left : left + width].copy())
    target = torch.full((3, height, width), 165, dtype=torch.uint8)
    resize_into(target, image, rows, columns, columns_first=tables.columns_first)
    return target


def batch_of(images: list[Tensor], sizes: list[tuple[Size, Size]], batch: int, device: str = "cpu") -> list[Tensor]:
    """Images and sizes of a batch that `DeviceWriter` and `collated` make of `(H, W, 3)` uint8 on the host."""
    where, parts = torch.device(device), []
    for image, (small, padded) in zip(images, sizes, strict=True):
        geometry = ImageGeometry((image.shape[0], image.shape[1]), small, padded)
        part = DeviceWriter(where).from_image(image.numpy(), geometry)
        assert isinstance(part, DecodedInputs)
        parts.append(part)
    made = collated(parts, batch, where).on_host()
    return [torch.from_numpy(array) for array in (*made, *parts[0].on_host())]
