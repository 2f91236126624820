"""Images on the host, for training and inference alike: decoding, resizing, drawing."""
