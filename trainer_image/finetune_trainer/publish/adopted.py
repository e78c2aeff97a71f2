"""What ``run.json`` says of weights that a job took over from another run as they are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def adopted_from(record: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return where the weights of a run come from that trained nothing; None if it trained.

    Args:
        record: Content of its ``run.json``.

    Returns:
        ``uri`` and ``digest`` of what was named, the ``step`` of its run that they were taken
        after, and the ``dataset`` that they were trained on, empty if it does not say.
    """
    origin = record.get("initFrom")
    is_adopted = isinstance(origin, Mapping) and origin.get("train") is False
    return origin if is_adopted else None
