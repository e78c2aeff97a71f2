"""The version that is published when an evaluation begins: found, pinned, fetched and asked."""
