"""The observed trials of one sweep, and the values of the next one."""
