"""How captured answers and feedback are shown; pure functions over dicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from finetune_cli.views.layout import age, table

Body = Mapping[str, Any]

COLUMNS = ("ID", "AGE", "ENDPOINT", "VERSION", "RATING", "QUESTION", "ANSWER", "CORRECTION")
MAX_CELL = 40
"""Characters of a text in a table."""


def answers_table(answers: Sequence[Body], now: datetime) -> list[str]:
    """Return captured answers as a table."""
    return table([_row(answer, now) for answer in answers], COLUMNS)


def _row(answer: Body, now: datetime) -> list[str]:
    given = answer.get("metadata") or {}
    choices = answer.get("choices") or [{}]
    return [
        _short(answer["id"], len(answer["id"])),
        age(datetime.fromtimestamp(answer["created"], UTC).isoformat(), now),
        _short(answer["model"]),
        str(answer.get("version", "")),
        _short(given.get("rating", "")),
        _short(_question(answer.get("request") or {})),
        _short((choices[0].get("message") or {}).get("content")),
        _short(given.get("correction", "")),
    ]


def _question(request: Body) -> Any:
    """Return what was asked last."""
    messages = request.get("messages") or [{"content": request.get("prompt")}]
    return messages[-1].get("content")


def _short(text: Any, most: int = MAX_CELL) -> str:
    """Return a text in one line: what a stranger wrote cannot move the cursor."""
    found = text if isinstance(text, str) else "" if text is None else str(text)
    line = " ".join("".join(c if c.isprintable() else " " for c in found).split())
    return line if len(line) <= most else f"{line[: most - 1]}…"


def entry_text(entry: Body) -> str:
    """Return what is stored of an answer since, in one line."""
    told = [f"{name} {_short(entry[name])}" for name in ("rating", "correction", "reason")
            if entry.get(name)]  # fmt: skip
    return f"{_short(entry['id'], len(entry['id']))}, version {entry['version']}: {', '.join(told)}"
