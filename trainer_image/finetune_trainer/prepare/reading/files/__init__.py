"""Files: types, encodings, and rows out of each type."""
