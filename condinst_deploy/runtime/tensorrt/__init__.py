"""The TensorRT backend: an engine, its execution contexts and their CUDA graphs."""
