"""Time and memory of a model file: each model in a process of its own, stages timed apart, two compared in turn."""
