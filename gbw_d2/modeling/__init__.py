"""Networks: their interface to strategies (protocol), the architectures, and post-processing."""
