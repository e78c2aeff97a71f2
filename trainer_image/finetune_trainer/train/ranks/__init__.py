"""The processes that train: one per rank; several meet under ``accelerate launch``."""
