"""Histograms of tensors over calibration images, by ONNX Runtime's collector."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from condinst_deploy.contract import INPUTS, NetworkInputs
from condinst_deploy.errors import ExportError
from condinst_deploy.support.onnx_runtime import onnx_runtime
from condinst_export.graph_session import graph_session, with_outputs
from condinst_export.quantization.calibration_images import InputsHash
from condinst_export.quantization.calibration_options import Method

BINS: Mapping[Method, int] = {"max": 1024, "mse": 1024, "entropy": 8192}
"""Bins of a tensor's histogram for the first image; a later image with larger values adds bins.

The entropy method compares the spread inside each of 256 codes, and needs several bins for each. With 1024 bins it
takes ranges that are too narrow (60 % of the detections of the model that ships were matched, with 8192 bins 91 %).
"""

MOST_ELEMENTS = 2**20
"""Elements of a tensor of one image that are counted; of a larger one every k-th, and the two extremes."""


@dataclass(frozen=True, eq=False)
class Histogram:
    """One tensor over all images; the bins are symmetric around zero."""

    counts: npt.NDArray[np.int64]  # (n,)
    edges: npt.NDArray[Any]  # (n + 1,) rising
    lowest: float
    highest: float

    @property
    def centres(self) -> npt.NDArray[np.float64]:
        """(n,) the middle of each bin."""
        edges = self.edges.astype(np.float64)
        return (edges[:-1] + edges[1:]) / 2


@dataclass(frozen=True, eq=False)
class Histograms:
    """Histograms of all requested tensors."""

    tensors: Mapping[str, Histogram]
    images: int
    images_sha256: str  # of what the network was given


def collected(
    proto: onnx.ModelProto,
    names: Sequence[str],
    images: Iterable[NetworkInputs],
    method: Method,
    on_image: Callable[[int], None] = lambda done: None,
) -> Histograms:
    """Run a graph in float32 on images, and count the values of tensors.

    Args:
        proto: a float32 graph with the inputs of the contract; it is left as it is.
        names: tensors of float32.
        images: batches.
        method: that will choose the ranges; it decides how fine the histograms are.
        on_image: called with the number of images that are done.

    Raises:
        ExportError: a tensor is not finite, or ONNX Runtime cannot run the graph.
    """
    session = graph_session(
        with_outputs(proto, names),
        lambda reason: ExportError(f"ONNX Runtime cannot run the graph to calibrate it ({reason})"),
        reuse_memory=False,
    )
    collector = _collector(BINS[method])
    digest, done = InputsHash(), 0
    for done, batch in enumerate(images, 1):
        digest.add(batch)
        values = session.run(list(names), dict(zip(INPUTS, batch, strict=True)))
        collector.collect_value({name: _counted(name, value) for name, value in zip(names, values, strict=True)})
        on_image(done)
    found = collector.get_histogram_dict()
    tensors = {
        name: Histogram(np.asarray(h[0]), np.asarray(h[1]), float(h[2]), float(h[3])) for name, h in found.items()
    }
    return Histograms(tensors, done, digest.hexdigest())


def _collector(bins: int) -> Any:
    """ONNX Runtime's collector, with histograms that are symmetric around zero."""
    onnx_runtime()  # with its telemetry off
    from onnxruntime.quantization.calibrate import HistogramCollector

    return HistogramCollector("entropy", True, bins, 0, None, None)  # its own methods are not used


def _counted(name: str, value: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The elements that are counted; the extremes are always among them."""
    flat = value.ravel()
    low, high = flat.min(initial=0.0), flat.max(initial=0.0)
    if not (np.isfinite(low) and np.isfinite(high)):
        raise ExportError(f"the tensor {name} is not finite on a calibration image; check the checkpoint")
    if flat.size <= MOST_ELEMENTS:
        return flat
    step = -(-flat.size // MOST_ELEMENTS) | 1  # odd: rows of even length give all their columns
    return np.concatenate([flat[::step], np.array([low, high], dtype=flat.dtype)])
