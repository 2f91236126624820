"""Quantisation to 8 bits: calibration, which engines share, and files for ONNX Runtime on CPUs."""
