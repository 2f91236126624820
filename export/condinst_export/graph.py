"""The network as it is exported: fixed slots, the two special operations as separate nodes."""

import torch
from torch import Tensor

from condinst_deploy.contract.onnx_names import DOMAIN, DYNAMIC_MASK_HEAD, SELECT_INSTANCES
from condinst_deploy.model.condinst import CondInst
from condinst_deploy.model.fixed_slots import FixedSlots, LevelCandidates
from condinst_deploy.model.operations import REFERENCE


class ExportGraph(FixedSlots):
    """`FixedSlots` for the exporter, which traces it; the two special operations are symbolic."""

    def __init__(self, model: CondInst) -> None:
        super().__init__(model, REFERENCE)

    def mask_head(self, mask_feats: Tensor, params: Tensor, points: Tensor, soi: Tensor) -> Tensor:
        """The node of the mask head."""
        logits: Tensor = torch.onnx.ops.symbolic(
            f"{DOMAIN}::{DYNAMIC_MASK_HEAD}",
            (mask_feats, params, points, soi),
            dtype=torch.float32,
            shape=(mask_feats.shape[0], params.shape[1], mask_feats.shape[2], mask_feats.shape[3]),
            version=1,
        )
        return logits

    def select(self, candidates: LevelCandidates) -> tuple[Tensor, Tensor]:
        """The node of the selection."""
        selection = self.model.config.selection
        batch = candidates.scores.shape[0]
        indices, count = torch.onnx.ops.symbolic_multi_out(
            f"{DOMAIN}::{SELECT_INSTANCES}",
            (candidates.boxes, candidates.scores, candidates.labels),
            attrs={"max_detections": selection.max_detections, "nms_iou": selection.nms_iou},
            dtypes=(torch.int32, torch.int32),
            shapes=((batch, selection.max_detections), (batch,)),
            version=1,
        )
        return indices, count
