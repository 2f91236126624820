"""The stage PyTorch -> ONNX: one file that shows the two special operations as two nodes."""
