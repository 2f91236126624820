"""Scripts of the figures in the documentation."""
