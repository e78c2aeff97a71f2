"""Caches of the controllers: objects, approvals, sweeps and validated specs."""
