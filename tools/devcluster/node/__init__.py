"""The `node` profile: one real node that runs pods, on this host, as root."""
