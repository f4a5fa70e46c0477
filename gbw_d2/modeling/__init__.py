"""Networks: what a strategy may ask of them (protocol), the architectures, and post-processing."""
