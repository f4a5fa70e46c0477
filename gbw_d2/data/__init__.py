"""Datasets, mappers and loaders; importing this package imports no large library."""
