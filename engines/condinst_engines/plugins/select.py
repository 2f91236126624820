"""Plugin `condinst::SelectInstances`, version 1.

`boxes (B, N, 4)`, `scores (B, N)` float32, `labels (B, N)` int32 -> `indices (B, K)`, `count (B,)` int32.
Attributes: `max_detections` (K), `nms_iou`, `candidates` (N).
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from condinst_deploy.contract.onnx_names import DOMAIN, SELECT_INSTANCES
from condinst_deploy.kernels.aot import select_source
from condinst_deploy.kernels.select import block_of
from condinst_engines.plugins.plugin_kernels import plugin_kernel

Whole = npt.NDArray[np.int32]
Real = npt.NDArray[np.float32]


def register(trt: Any, trtp: Any) -> None:
    """Register the plugin; the annotations are TensorRT's, so it takes the module."""
    name = f"{DOMAIN}::{SELECT_INSTANCES}"

    @trtp.register(name)  # type: ignore[untyped-decorator]
    def describe(
        boxes: trtp.TensorDesc,
        scores: trtp.TensorDesc,
        labels: trtp.TensorDesc,
        max_detections: Whole,
        nms_iou: Real,
        candidates: Whole,
    ) -> tuple[trtp.TensorDesc, trtp.TensorDesc]:
        batch = scores.shape_expr[0]
        return (
            trtp.from_shape_expr((batch, int(max_detections[0])), trt.int32),
            trtp.from_shape_expr((batch,), trt.int32),
        )

    @trtp.aot_impl(name)  # type: ignore[untyped-decorator]
    def kernel(
        boxes: trtp.TensorDesc,
        scores: trtp.TensorDesc,
        labels: trtp.TensorDesc,
        max_detections: Whole,
        nms_iou: Real,
        candidates: Whole,
        outputs: tuple[trtp.TensorDesc, trtp.TensorDesc],
        tactic: int,
    ) -> tuple[str, str, trtp.KernelLaunchParams, trtp.SymIntExprs]:
        # a kernel takes no float: the threshold is one of its constants
        made = plugin_kernel(select_source(float(nms_iou[0]), block_of(int(candidates[0]))))
        launch = trtp.KernelLaunchParams(
            grid_x=scores.shape_expr[0], block_x=made.threads, shared_mem=made.shared_bytes
        )
        numbers = trtp.SymIntExprs.from_tuple([trtp.SymInt32(int(n[0])) for n in (candidates, max_detections)])
        return made.name, made.ptx, launch, numbers
