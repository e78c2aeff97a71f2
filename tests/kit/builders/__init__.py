"""Builders of jobs, sweeps and worlds for tests of the operator."""
