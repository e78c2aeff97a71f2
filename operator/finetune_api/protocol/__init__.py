"""The protocol between whoever starts a stage (operator or CLI) and the trainer image."""
