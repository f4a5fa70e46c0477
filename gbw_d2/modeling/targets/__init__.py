"""What networks learn from, made of class and segment maps in the loader processes."""
