"""From an image of any kind to the network's input."""
