"""Live quality: what people and a judge say of captured answers that were drawn at random."""
