"""Rewrites of the graph before it is built, one a file: `refusal(node)` says why not, `rewrite(node)` does it."""
