"""A client for served models: HTTP with the standard library, gRPC with the extra `triton-client`."""
