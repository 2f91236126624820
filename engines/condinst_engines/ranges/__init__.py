"""Magnitudes of half tensors, measured before a half engine is built."""
