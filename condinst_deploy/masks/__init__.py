"""Compact instance masks: runs, COCO RLE, contours."""

from condinst_deploy.masks.masks import RLE, BoolArray, Masks, Runs, Selector, Window, runs_from_changes, trimmed_crop

__all__ = ["RLE", "BoolArray", "Masks", "Runs", "Selector", "Window", "runs_from_changes", "trimmed_crop"]
