"""From images to detections: preprocessing, backends with the same verbs, postprocessing."""
