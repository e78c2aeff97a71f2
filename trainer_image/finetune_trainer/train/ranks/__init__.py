"""The processes that train: one per rank, started by the parent under ``accelerate launch``."""
