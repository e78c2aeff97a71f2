"""What a run leaves for people: reports and reviews."""
