"""How far the choices of a sweep can be trusted, measured (``make sweeps``)."""
