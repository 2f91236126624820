"""The masks' part of `benchmarks.gpu`, small and on a CPU, where Triton interprets the kernels."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from benchmarks import gpu_network
from condinst_deploy.model.condinst import Instances
from condinst_deploy.model.fixed_slots import FixedSlots
from condinst_deploy.model.operations import REFERENCE
from tests.support.models import SLIM


def measured_once() -> dict[str, Any]:
    """Every part is called once for every input where a GPU is timed; what was called is noted."""
    called: list[str] = []

    def once(call: Any, inputs: Any, runs: int = 1) -> dict[str, float]:
        called.extend(type(call(*each)).__name__ for each in inputs)
        return {"median_ms": 1e-4}

    small = {"HEIGHT": 64, "WIDTH": 96, "SLOTS": 3, "ROTATION": 1, "milliseconds": once}

    def timed(call: Any, make: Any, runs: int = 1) -> dict[str, Any]:
        return {"graph": once(call, [make(0)])}

    vars(gpu_network).update(small | {"timed": timed})
    found = gpu_network.masks((30, 40), "cpu")
    graph, sizes = half_graph(), torch.tensor([[64, 96]] * 2, dtype=torch.int32)
    seen: list[Instances] = []

    def run(images: Tensor) -> Instances:
        seen.append(graph(images, sizes))
        return seen[-1]

    ends = gpu_network.end_to_end(run, [torch.randint(256, (2, 3, 64, 96), dtype=torch.uint8)])
    return {
        "masks": found,
        "ends": ends,
        "called": called,
        "detections": seen[0].num_detections.tolist(),
        "finite": bool(torch.isfinite(seen[0].mask_logits).all()),
        "logits": str(seen[0].mask_logits.dtype),
    }


def half_graph() -> FixedSlots:
    model = gpu_network.HalfCondInst(replace(SLIM, selection=replace(SLIM.selection, max_detections=3))).eval()
    assert model.head.cls_logits.bias is not None
    torch.nn.init.constant_(model.head.cls_logits.bias, -2.0)
    for part in (model.backbone, model.fpn, model.head, model.mask_branch):
        part.half().to(memory_format=torch.channels_last)
    return FixedSlots(model, REFERENCE).eval()
