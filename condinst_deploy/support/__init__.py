"""Mechanisms that are not about instance segmentation: atomic writes, signals, TOML settings, suggestions."""
