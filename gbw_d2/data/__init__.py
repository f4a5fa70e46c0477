"""Datasets, label spaces, mappers and loaders; imports nothing heavy by itself."""
