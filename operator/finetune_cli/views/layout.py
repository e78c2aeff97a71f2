"""Tables, facts, sections and ages, as the commands print them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any


def table(rows: Sequence[Sequence[str]], columns: Sequence[str]) -> list[str]:
    """Lay out cells as kubectl does: left-aligned, three blanks apart."""
    widths = [max(len(line[i]) for line in (columns, *rows)) for i in range(len(columns))]
    return [
        "   ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in (columns, *rows)
    ]


def facts(told: Mapping[str, Any]) -> list[str]:
    """Return a line for each fact that is known."""
    known = {key: value for key, value in told.items() if value not in (None, "")}
    width = max((len(key) for key in known), default=0) + 1
    return [f"{key + ':':<{width}} {value}" for key, value in known.items()]


def section(title: str, lines: list[str]) -> list[str]:
    """Return lines below a heading; nothing without any."""
    return ["", f"{title}:", *(f"  {line}" for line in lines)] if lines else []


def conditions(body: Mapping[str, Any], now: datetime) -> list[str]:
    """Return the conditions of an object as a table."""
    rows = [
        [
            c.get("type", ""),
            c.get("status", ""),
            c.get("reason", ""),
            age(c.get("lastTransitionTime"), now),
            c.get("message", ""),
        ]
        for c in body.get("status", {}).get("conditions", [])
    ]
    return table(rows, ("TYPE", "STATUS", "REASON", "SINCE", "MESSAGE")) if rows else []


def age(timestamp: str | None, now: datetime) -> str:
    """Return the time since a timestamp as kubectl writes it: ``45s``, ``12m``, ``3h``, ``5d``."""
    if not timestamp:
        return ""
    seconds = int((now - datetime.fromisoformat(timestamp)).total_seconds())
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * size or (seconds >= size and unit == "d"):
            return f"{seconds // size}{unit}"
    return f"{max(0, seconds)}s"


def current_time() -> datetime:
    """Return the time that ages count to."""
    return datetime.now(UTC)
