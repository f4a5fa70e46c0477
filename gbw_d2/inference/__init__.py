"""Predictions for images without labels: what tools/demo.py and tools/export.py are made of."""
