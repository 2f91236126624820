"""What the graph's nodes and the plugins agree on."""

NAMESPACE = "condinst"
VERSION = "1"
LOWEST_CAPABILITY = 80
"""The kernels' PTX is for sm_80 and what came after it."""
