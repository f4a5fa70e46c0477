"""Writers and readers of the files in a run's OUTPUT_DIR."""
