"""Models that were done harm on purpose, and what the probes of an evaluation say of them."""
