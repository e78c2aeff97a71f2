"""Whether a base model's licence is one that an administrator allows: for operator and trainer."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase


def is_licence_allowed(licence: str, allowed: Iterable[str]) -> bool:
    """Return whether each of some licences, separated by commas, matches a pattern.

    Args:
        licence: Short name, as Hugging Face has it: ``apache-2.0``; case is ignored.
        allowed: Patterns, in which ``*`` stands for any text.
    """
    patterns = [pattern.strip().casefold() for pattern in allowed]
    names = [name.strip().casefold() for name in licence.split(",")]
    return all(any(fnmatchcase(name, pattern) for pattern in patterns) for name in names)
