"""The trainable PyTorch reference model: one module per stage of the network."""
