"""Names in exported files that the exporter and the engine builder share."""

DOMAIN = "condinst"
"""ONNX domain of the operations, and namespace of the TensorRT plugins that replace them."""

SELECT_INSTANCES = "SelectInstances"
DYNAMIC_MASK_HEAD = "DynamicMaskHead"

PREDICTORS = ("head.cls_logits/*", "head.box_pred/*", "head.centerness/*", "mask_branch.features/*")
"""Patterns of the convolutions whose outputs are scores, distances and mask features: a percent of the work."""
