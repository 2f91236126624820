"""Plugin `condinst::DynamicMaskHead`, version 1.

`feats (B, C, h, w)`, `params (B, K, P)` of the same type (float32, float16, bfloat16), `points (B, K, 2)` and
`soi (B, K)` float32 -> `logits (B, K, h, w)` of the features' type. Attributes: `channels` (C), `hidden`.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from condinst_deploy.contract.onnx_names import DOMAIN, DYNAMIC_MASK_HEAD
from condinst_deploy.kernels.aot import mask_head_source
from condinst_deploy.kernels.mask_head import launch_of
from condinst_engines.plugins.plugin_kernels import plugin_kernel
from condinst_engines.typed_network import DTYPES

# attributes are arrays: numbers go through int(array) in TensorRT's Python, which NumPy 2.4 refuses
Whole = npt.NDArray[np.int32]


def register(trt: Any, trtp: Any) -> None:
    """Register the plugin; the annotations are TensorRT's, so it takes the module."""
    name = f"{DOMAIN}::{DYNAMIC_MASK_HEAD}"

    @trtp.register(name)  # type: ignore[untyped-decorator]
    def describe(
        feats: trtp.TensorDesc,
        params: trtp.TensorDesc,
        points: trtp.TensorDesc,
        soi: trtp.TensorDesc,
        channels: Whole,
        hidden: Whole,
    ) -> trtp.TensorDesc:
        shape = feats.shape_expr
        return trtp.from_shape_expr((shape[0], params.shape_expr[1], shape[2], shape[3]), feats.dtype)

    @trtp.aot_impl(name)  # type: ignore[untyped-decorator]
    def kernel(
        feats: trtp.TensorDesc,
        params: trtp.TensorDesc,
        points: trtp.TensorDesc,
        soi: trtp.TensorDesc,
        channels: Whole,
        hidden: Whole,
        outputs: tuple[trtp.TensorDesc],
        tactic: int,
    ) -> tuple[str, str, trtp.KernelLaunchParams, trtp.SymIntExprs]:
        dtype = DTYPES[feats.dtype.name]
        made = plugin_kernel(mask_head_source(dtype, int(channels[0]), int(hidden[0])))
        plan = launch_of(dtype, int(hidden[0]))
        batch, _, height, width = (feats.shape_expr[i] for i in range(4))
        slots = params.shape_expr[1]
        launch = trtp.KernelLaunchParams(
            grid_x=trtp.cdiv(height * width, plan.tile),
            grid_y=trtp.cdiv(slots, plan.group),
            grid_z=batch,
            block_x=made.threads,
            shared_mem=made.shared_bytes,
        )
        numbers = trtp.SymIntExprs.from_tuple([trtp.SymInt32(n) for n in (slots, height, width)])
        return made.name, made.ptx, launch, numbers
