"""What a run leaves for people: reports, reviews, checkpoints."""
