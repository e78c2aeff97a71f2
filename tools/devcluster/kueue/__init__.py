"""Kueue, installed on a node or as a process beside a control plane."""
