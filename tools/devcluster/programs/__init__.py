"""Programs of a cluster, built from pinned Go modules."""
