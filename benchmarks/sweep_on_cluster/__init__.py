"""A sweep on a real cluster beside the same trials run whole: what stopping early saves."""
