"""The facts in ``run.json`` about weights that a job took over from another run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def adopted_from(record: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the origin of the weights of a run that trained nothing; None if it trained.

    Returns:
        ``uri`` and ``digest`` of the origin, the ``step`` of its run, and its ``dataset``, which
            may be empty.
    """
    origin = record.get("initFrom")
    is_adopted = isinstance(origin, Mapping) and origin.get("train") is False
    return origin if is_adopted else None
