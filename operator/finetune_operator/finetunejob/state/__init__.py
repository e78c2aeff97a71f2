"""What is known of one job and what has been decided: values that the other rooms share."""
