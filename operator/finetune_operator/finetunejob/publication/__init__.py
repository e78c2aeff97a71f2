"""How a stage ends, and what decides about the publication of its result."""
