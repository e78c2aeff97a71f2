"""A stand-in for the trainer: speaks its protocol, trains nothing. Put its folder on PYTHONPATH."""
