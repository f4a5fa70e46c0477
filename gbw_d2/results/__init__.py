"""What a run leaves in its OUTPUT_DIR: one writer and one reader."""
