"""One GPU through NVIDIA's driver, without PyTorch: memory, streams, events, graphs and kernels."""
