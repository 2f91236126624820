"""Evaluation: COCO metrics on a data set, and agreement of two backends."""
