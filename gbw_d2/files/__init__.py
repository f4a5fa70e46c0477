"""Atomic writing of files, locks between processes, and worker processes."""
