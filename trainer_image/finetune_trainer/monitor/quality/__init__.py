"""Live quality: people and a judge score captured answers that are drawn at random."""
