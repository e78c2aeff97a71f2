"""The status of each kind: what the operator reports."""
