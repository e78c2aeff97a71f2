"""What a run would need and take: memory, time and cost, counted before anything is loaded."""
