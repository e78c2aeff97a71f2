"""The recorder stores captured answers and feedback on them. It runs beside a front."""
