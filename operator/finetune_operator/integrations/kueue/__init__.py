"""Kueue: the queue label on child Jobs, and what its Workload says of them."""
