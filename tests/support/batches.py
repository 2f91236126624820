"""Batches for tests that call a backend's verbs."""

from collections.abc import Sequence

from condinst_deploy.contract import ImageGeometry, NetworkInputs
from condinst_deploy.imaging.decode import RGBArray
from condinst_deploy.runtime.backend import Backend
from condinst_deploy.runtime.preprocessing.batch import network_inputs


def host_batch(backend: Backend, images: Sequence[RGBArray]) -> tuple[NetworkInputs, list[ImageGeometry]]:
    """One batch on the host, padded to the largest image, as the references pad a batch."""
    geometries = [backend.geometry(image) for image in images]
    return network_inputs(images, geometries, backend.static_batch), geometries
