"""How far the evidence of a job can be trusted, measured (``make evidence``)."""
