"""Small operations on tensors and arrays that several packages share."""
