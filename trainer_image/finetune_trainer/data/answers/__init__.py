"""What an answer is: a label, a value, or JSON that fits a schema."""
