"""Version of the plugins and the GPUs that they run on; their names are the operations' (`contract/onnx_names.py`)."""

VERSION = "1"
LOWEST_CAPABILITY = 80
"""The kernels' PTX is for sm_80 and what came after it."""
