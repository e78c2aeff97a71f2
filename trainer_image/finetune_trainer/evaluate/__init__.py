"""Stage ``evaluate``: base against tuned model on the held-out side, and what may be published.

``stage`` is the program; ``questions`` gathers, ``scoring`` asks, ``metrics`` scores, ``goal``
judges, ``report`` and ``page`` tell.
"""
