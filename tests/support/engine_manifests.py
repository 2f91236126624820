"""Manifests of engines that nobody built, for tests of what runs them."""

from dataclasses import replace

from condinst_deploy.contract import ModelManifest
from condinst_deploy.contract.engine_manifest import EngineManifest, EngineTensor, FoundPrecision, ShapeRange
from tests.support.models import manifest_of


def image_profile(low: tuple[int, int, int], high: tuple[int, int, int]) -> dict[str, ShapeRange]:
    """A profile from (batch, height, width) to another."""
    images = ((low[0], 3, *low[1:]), (high[0], 3, *high[1:]))
    return {
        "images": ShapeRange(images[0], images[1], images[1]),
        "image_sizes": ShapeRange((low[0], 2), (high[0], 2), (high[0], 2)),
    }


def engine_manifest(
    *profiles: dict[str, ShapeRange], model: ModelManifest | None = None, logits: str = "float16", slots: int = 100
) -> EngineManifest:
    """An engine of full TensorRT with plugins, for an H100."""
    return EngineManifest(
        flavour="tensorrt",
        library_version="11.4.0",
        precision="float16",
        found=FoundPrecision("typed network", {"float16": 10}),
        targets=("90",),
        tensors=(
            EngineTensor("images", "input", "uint8", (-1, 3, -1, -1)),
            EngineTensor("image_sizes", "input", "int32", (-1, 2)),
            EngineTensor("num_detections", "output", "int32", (-1,)),
            EngineTensor("boxes", "output", "float32", (-1, slots, 4)),
            EngineTensor("scores", "output", "float32", (-1, slots)),
            EngineTensor("labels", "output", "int32", (-1, slots)),
            EngineTensor("mask_logits", "output", logits, (-1, slots, -1, -1)),
        ),
        profiles=profiles,
        model=model or manifest_of(),
        onnx="model.onnx",
        onnx_sha256="0" * 64,
        plan_sha256="0" * 64,
        plan_bytes=0,
        plugins=("DynamicMaskHead", "SelectInstances"),
    )


def with_fixed_shape(manifest: EngineManifest, batch: int, height: int, width: int) -> EngineManifest:
    """The same with one shape and no profile."""
    images, sizes, *outputs = manifest.tensors
    fixed = replace(images, shape=(batch, 3, height, width)), replace(sizes, shape=(batch, 2))
    return replace(manifest, profiles=(), tensors=(*fixed, *outputs))
