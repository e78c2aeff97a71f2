"""A job on this machine: its stages run as local processes."""
