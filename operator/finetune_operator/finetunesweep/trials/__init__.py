"""What is known of the trials of one sweep, and which values are tried next."""
