"""Small operations on plain tensors and arrays that several rooms share."""
