"""Time and memory of a model file: each model in a separate process, stages timed apart, two compared in turn."""
