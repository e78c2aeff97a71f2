"""The meaning and the remedy of a reason."""

from __future__ import annotations

from typing import NamedTuple

GOES_ON = "Nothing: the job goes on by itself."


class ReasonHelp(NamedTuple):
    """Meaning and remedy of a reason.

    Attributes:
        remedy: An imperative; ``Nothing`` and the cause where the job continues by itself.
    """

    meaning: str
    remedy: str
