"""From answers to scores with bounds. Pure."""
