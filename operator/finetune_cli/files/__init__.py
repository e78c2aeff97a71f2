"""The files that a user writes: read, checked, proposed."""
