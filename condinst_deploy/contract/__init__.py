"""Types that all layers share: detections, image geometry, network tensors, settings and the manifest."""

from condinst_deploy.contract.detections import DRAWN_ABOVE, InstanceDetections
from condinst_deploy.contract.geometry import ImageGeometry
from condinst_deploy.contract.manifest import (
    MANIFEST_KEY,
    MANIFEST_VERSION,
    ModelManifest,
    contiguous_ids,
    default_class_names,
)
from condinst_deploy.contract.model_settings import Family, Preprocessing, Selection, check_family
from condinst_deploy.contract.tensors import INPUTS, OUTPUTS, FloatArray, NetworkInputs, NetworkOutputs

__all__ = [
    "DRAWN_ABOVE",
    "INPUTS",
    "MANIFEST_KEY",
    "MANIFEST_VERSION",
    "OUTPUTS",
    "Family",
    "FloatArray",
    "ImageGeometry",
    "InstanceDetections",
    "ModelManifest",
    "NetworkInputs",
    "NetworkOutputs",
    "Preprocessing",
    "Selection",
    "check_family",
    "contiguous_ids",
    "default_class_names",
]
