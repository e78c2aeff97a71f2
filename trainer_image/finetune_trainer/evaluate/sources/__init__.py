"""Sources of evidence: each asks the models for one kind and measures it."""
