"""A recipe of a small model that trains in seconds, as a file's text."""

RECIPE = """
short_sides = [64]
log_every = 40

[data]
workers = 0

[model]
depth = 18
base_width = 8
fpn_channels = 64
tower_convs = 1
mask_branch_channels = 8
mask_branch_convs = 1
preprocessing = {short_side = 64, long_side = 64}

[schedule]
iterations = 100
batch_size = 1
warmup_iterations = 1

[start]
frozen_stages = 0
"""
