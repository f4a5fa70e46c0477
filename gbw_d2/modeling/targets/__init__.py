"""The targets of networks, made of class and segment maps in the loader processes."""
