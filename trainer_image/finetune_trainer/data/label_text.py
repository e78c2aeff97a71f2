"""When two labels are the same, for all that compare answers."""

from __future__ import annotations


def normalize_label(text: str) -> str:
    """Bring a label into comparable form."""
    return " ".join(text.casefold().split()).rstrip(".").strip()
