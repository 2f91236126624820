"""A model repository for NVIDIA Triton Inference Server, and the code that runs inside the server."""
