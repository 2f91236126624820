"""Training: a recipe, and the loop that follows it."""
