"""From images to detections: preprocessing, backends with the same four verbs, postprocessing."""
