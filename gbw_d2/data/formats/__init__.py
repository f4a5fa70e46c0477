"""How files on disk become records and label arrays: one file per official layout."""
