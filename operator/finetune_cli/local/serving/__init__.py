"""Serving on one machine: engine, agent and front as local processes."""
