"""Puts the preprocessing stage together."""

from condinst_deploy.runtime.observer import Observer
from condinst_deploy.runtime.preprocessing.exact import ExactPreparation
from condinst_deploy.runtime.preprocessing.types import GeometryOf, InputWriter, Pixels, Prepare


def preparation(
    pixels: Pixels,
    geometry_of: GeometryOf,
    writer: InputWriter,
    device: str,
    observer: Observer | None = None,
    keep_images: bool = True,
) -> Prepare:
    """Return the function that prepares images.

    Args:
        pixels: how images are decoded and resized.
        geometry_of: `Backend.geometry` of the model.
        writer: `Backend.input_writer` of the model.
        device: `Backend.device` of the model. `pixels="cuda"` uses it if it is a GPU.
        observer: called for the stages "decode" and "resize".
        keep_images: as of `InputOptions`.

    Raises:
        BackendError: `pixels` is "cuda" and PyTorch sees no GPU.
    """
    if pixels == "exact":
        return ExactPreparation(geometry_of, writer, observer, keep_images)
    # imported here, because exact preparation does not need PyTorch
    from condinst_deploy.runtime.preprocessing.jpeg_batches import jpeg_batches_of
    from condinst_deploy.runtime.preprocessing.tensor import TensorPreparation, gpu_beside

    if pixels == "fast":
        return TensorPreparation(geometry_of, "cpu", writer, observer, keep_images)
    gpu = gpu_beside(device)
    return TensorPreparation(geometry_of, gpu, writer, observer, keep_images, jpeg_batches_of(gpu))
