"""Personal data and secrets in the examples: found by patterns, then replaced or counted."""
