"""The trainer: the stages prepare, train and evaluate, and what they report."""
