"""Scripts of the metrics in the documentation."""
