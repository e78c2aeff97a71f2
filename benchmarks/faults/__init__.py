"""The fault matrix: whatever goes wrong, a job ends in the same adapter or in the right failure."""
