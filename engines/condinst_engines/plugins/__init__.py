"""Kernels inside engines: Quickly Deployable Plugins of full TensorRT with an ahead-of-time implementation."""

from condinst_engines.plugins.registration import register_plugins

__all__ = ["register_plugins"]
