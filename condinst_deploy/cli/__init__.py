"""One thin module per command of this package."""
