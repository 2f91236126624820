"""The stage ONNX -> TensorRT: engines for the flavours `tensorrt` and `rtx`, from one code path."""
