"""What a terminal shows: pure functions from objects to text, and the live display."""
