"""Fused GPU kernels in the Triton language, each the third form of one of the two special operations."""
