"""`postprocess` for an engine's outputs: runs of masks are found on the GPU, and only they cross to the host.

The kernels are those of `kernels/extents.py` and `kernels/runs.py`, as the package contains them. Several threads may
do this for different batches: each has a stream of its own, whose work runs before that of the network.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from condinst_deploy.contract import ImageGeometry, InstanceDetections, ModelManifest
from condinst_deploy.kernels.runs_launch import (
    LIMITS,
    IntArray,
    Launch,
    Limits,
    MaskCrops,
    launches,
    run_starts,
    runs_of_masks,
)
from condinst_deploy.masks import Masks
from condinst_deploy.runtime.cuda.gpu import Gpu, Kernel, Stream
from condinst_deploy.runtime.cuda.gpu_batches import GpuOutputs
from condinst_deploy.runtime.cuda.memory_pools import GpuArray, host_array
from condinst_deploy.runtime.mask_crops import kernels_cover, mask_crops
from condinst_deploy.runtime.postprocess import (
    ResultFilter,
    SlotOutputs,
    detections_from_outputs,
    detections_with_masks,
    masks_from_runs,
    require_finite,
)

ALIGNMENT = 256
"""Bytes; the kernels were compiled for tables at multiples of 16."""


class MaskKernels(NamedTuple):
    """The kernels for logits of one type, in the order of their launches."""

    extents: Kernel
    probabilities: Kernel
    counted: Kernel
    offsets: Kernel
    written: Kernel


def mask_kernels(gpu: Gpu, dtype: str) -> MaskKernels | None:
    """Load the kernels for logits of a type; None if the GPU cannot run them. The GPU is current."""
    names = (f"mask_extents_{dtype}", f"probabilities_{dtype}", "changes_counted", "offsets", "changes_written")
    found = [kernel for name in names if (kernel := gpu.kernel(name)) is not None]
    return MaskKernels(*found) if len(found) == len(names) else None


def detections_from_gpu(
    outputs: GpuOutputs,
    geometries: Sequence[ImageGeometry],
    manifest: ModelManifest,
    result_filter: ResultFilter,
    limits: Limits = LIMITS,
) -> list[InstanceDetections]:
    """`detections_from_outputs` for outputs on a GPU.

    Raises:
        BackendError: the network's outputs are not finite, or the GPU failed.
    """
    logits = outputs.mask_logits
    with outputs.gpu.side_stream() as stream:
        kernels = mask_kernels(outputs.gpu, logits.dtype.name)
        if kernels is None or not kernels_cover(geometries, logits.shape, limits):
            host = outputs.on_host(len(geometries), manifest.precision)
            return detections_from_outputs(host, geometries, manifest, result_filter)
        stream.wait(outputs.ready)
        finder = _RunFinder(outputs.gpu, stream, kernels, logits, limits)
        small = (outputs.num_detections, outputs.boxes, outputs.scores, outputs.labels)
        *slots, extents = stream.downloaded([*small, finder.extents()])
        require_finite(not extents[: len(geometries), :, -1].any(), manifest.precision)

        def masks_of(kept: list[IntArray]) -> list[Masks]:
            return masks_from_runs(finder.runs(mask_crops(extents, kept, geometries, logits.shape)), kept, geometries)

        return detections_with_masks(SlotOutputs(*slots), geometries, manifest, result_filter, masks_of)


class _RunFinder:
    """The launches for the logits of one batch, on one stream."""

    def __init__(self, gpu: Gpu, stream: Stream, kernels: MaskKernels, logits: GpuArray, limits: Limits) -> None:
        self._gpu, self._stream, self._kernels, self._logits, self._limits = gpu, stream, kernels, logits, limits

    def extents(self) -> GpuArray:
        """`(B, K, 5)` int32 as `kernels.extents.mask_extents` gives them."""
        batch, slots, height, width = self._logits.shape
        extents = self._room((batch, slots, 5), "int32")
        if extents.nbytes:
            self._launch(self._kernels.extents, batch * slots, self._logits, height, width, extents)
        return extents

    def runs(self, found: MaskCrops) -> Iterator[IntArray]:
        """The runs of each crop's mask; the caller waits twice for as many crops as are found together."""
        for launch in launches(found, self._limits):
            yield from runs_of_masks(*self._runs_together(launch, found))

    def _runs_together(self, launch: Launch, found: MaskCrops) -> tuple[IntArray, npt.NDArray[np.int32]]:
        number = launch.number
        if launch.strips == 0:
            return np.zeros(0, dtype=np.int64), np.zeros(number, dtype=np.int32)
        crops, axes, first, share = self._uploaded((launch.table, launch.axes, *found.columns))
        probabilities = self._room((launch.probabilities,), "float32")
        counts, offsets = (self._room((launch.columns,), "int32") for _ in range(2))
        totals = self._room((number,), "int32")
        sides = self._logits.shape[2:]
        self._launch(self._kernels.probabilities, launch.tiles, self._logits, crops, number, *sides, probabilities)
        given = (probabilities, crops, axes, first, share, number, counts, offsets)
        self._launch(self._kernels.counted, launch.strips, *given, totals, totals)
        self._launch(self._kernels.offsets, number, crops, counts, offsets, totals)
        (lengths,) = self._stream.downloaded([totals])
        bounds = run_starts(lengths)
        if bounds[-1] == 0:
            return np.zeros(0, dtype=np.int64), lengths
        runs = self._room((int(bounds[-1]),), "int64")
        (starts,) = self._uploaded((bounds,))
        self._launch(self._kernels.written, launch.strips, *given, starts, runs)
        (crossed,) = self._stream.downloaded([runs])
        return crossed, lengths

    def _launch(self, kernel: Kernel, programs: int, *arguments: GpuArray | int) -> None:
        values = [each.address if isinstance(each, GpuArray) else each for each in arguments]
        kernel.launch(self._stream, (programs, 1, 1), *values)

    def _room(self, shape: tuple[int, ...], dtype: str) -> GpuArray:
        return self._gpu.memory.array(shape, dtype, self._stream)

    def _uploaded(self, arrays: Sequence[npt.NDArray[Any]]) -> list[GpuArray]:
        """Start to copy arrays to the GPU, all of them together."""
        ends = np.cumsum([-(-array.nbytes // ALIGNMENT) * ALIGNMENT for array in arrays]).tolist()
        source = self._gpu.pinned.taken(ends[-1])
        target = self._gpu.memory.taken(ends[-1], self._stream)
        content, moved = host_array(source), []
        for array, begin in zip(arrays, [0, *ends[:-1]], strict=True):
            content[begin : begin + array.nbytes] = np.ascontiguousarray(array).view(np.uint8).ravel()
            moved.append(target.array(array.shape, array.dtype.name, begin))
        self._stream.upload(target.array((ends[-1],), "uint8"), source)
        source.used_until(self._stream.record())
        return moved
