"""Training, evaluation and checkpoints; the only package that reads a whole config."""
