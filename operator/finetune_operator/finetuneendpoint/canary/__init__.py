"""Whether a candidate in traffic goes on: evidence and decision, from counts alone."""
