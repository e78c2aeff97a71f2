"""MLflow: its REST API, spoken with the standard library."""
