"""Prediction on images without labels, used by tools/demo.py and tools/export.py."""
