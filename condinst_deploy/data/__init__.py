"""Data sets to train and evaluate on: COCO's format, training transforms, and generated shapes."""
