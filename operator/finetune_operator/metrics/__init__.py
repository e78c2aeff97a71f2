"""Prometheus metrics of FineTuneJobs, counted from the caches without requests."""
