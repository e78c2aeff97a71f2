"""Keys that wait for a reconcile, and the workers that take them."""
