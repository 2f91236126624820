"""From an image of any kind to the network's input: types, the two ways to prepare an image, and the factory."""
