"""Shapes of a batch against what an engine was built for, before anything runs."""

from typing import NamedTuple

from condinst_deploy.contract import INPUTS
from condinst_deploy.contract.engine_manifest import EngineManifest
from condinst_deploy.errors import BackendError


class BatchShape(NamedTuple):
    """Batch size and padded image size, what all shapes of a run follow from."""

    batch: int
    height: int
    width: int

    @property
    def inputs(self) -> dict[str, tuple[int, ...]]:
        """Input name -> shape."""
        images, image_sizes = INPUTS
        return {images: (self.batch, 3, self.height, self.width), image_sizes: (self.batch, 2)}

    def __str__(self) -> str:
        return f"{self.batch}x3x{self.height}x{self.width}"


def profile_of(manifest: EngineManifest, shape: BatchShape) -> int | None:
    """The optimization profile for a shape; None: the engine has one fixed shape, and this is it.

    Raises:
        BackendError: the engine does not take this shape.
    """
    if manifest.profiles:
        profile = manifest.profile_for(shape.inputs)
        if profile is None:
            raise BackendError(
                f"images are {shape}; the engine takes {_ranges(manifest)}: build it again with --shapes that cover"
                f" them, or use images and a batch_size inside"
            )
        return profile
    fixed = {tensor.name: tensor.shape for tensor in manifest.inputs}
    if fixed != shape.inputs:
        only = "x".join(str(side) for side in fixed[INPUTS[0]])
        raise BackendError(f"images are {shape}; the engine takes {only} only: build one from a dynamic export")
    return None


def takes(manifest: EngineManifest, shape: BatchShape) -> bool:
    """True if some profile covers a shape."""
    return manifest.profile_for(shape.inputs) is not None if manifest.profiles else True


def largest_batch(manifest: EngineManifest) -> int:
    """Images that some profile takes at once."""
    if manifest.profiles:
        return max(profile[INPUTS[0]].max[0] for profile in manifest.profiles)
    return next(tensor.shape[0] for tensor in manifest.inputs if tensor.name == INPUTS[0])


def _ranges(manifest: EngineManifest) -> str:
    texts = []
    for profile in manifest.profiles:
        low, high = profile[INPUTS[0]].min, profile[INPUTS[0]].max
        texts.append("x".join(map(str, low)) + " to " + "x".join(map(str, high)))
    return " or ".join(texts)
