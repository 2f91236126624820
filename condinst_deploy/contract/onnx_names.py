"""Names of the two special operations in exported files and in engines."""

DOMAIN = "condinst"
"""ONNX domain of the operations, and namespace of the TensorRT plugins that replace them."""

SELECT_INSTANCES = "SelectInstances"
DYNAMIC_MASK_HEAD = "DynamicMaskHead"
