"""INT8 and FP8 engines: explicit Q/DQ, the proof of what was built, and the report of what it costs."""
