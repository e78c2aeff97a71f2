"""A whole serving namespace on this machine: rendered pods as processes, and who plans them."""
