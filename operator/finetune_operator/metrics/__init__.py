"""What FineTuneJobs do, for Prometheus: counted from the caches, nothing is asked of anybody."""
