"""Captured answers as the monitor reads them: prompt, answer and user. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from finetune_trainer.monitor.signals import Answered
from finetune_trainer.traffic.rows import Exchange


@dataclass(frozen=True, kw_only=True, slots=True)
class UserRow:
    """A captured answer and whose it is."""

    answered: Answered
    user: str
    id: str = ""


def read_exchange(row: Exchange, down: Container[str] = ()) -> UserRow:
    """Return what is watched of a captured answer; ``down`` has ids of those marked as bad.

    Without ``user`` in the request its conversation stands for a user: the sender with the first
    text. So a script that repeats itself counts once, and one that does not counts as often as it
    asks.
    """
    texts = texts_of_user(row.messages)
    user = row.user
    if user is None:
        begin = f"{row.sender}\n{texts[0] if texts else ''}"
        user = hashlib.sha256(begin.encode("utf-8", "surrogatepass")).hexdigest()
    return UserRow(
        answered=Answered(
            prompt="\n".join(texts),
            answer=row.text if row.text and not row.is_error else None,
            is_error=row.is_error,
            is_down=row.id in down,
        ),
        user=user,
        id=row.id,
    )


def texts_of_user(messages: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the texts that a user wrote: of parts only the text."""
    return [
        text
        for message in messages
        if message.get("role") == "user" and (text := _text(message.get("content")))
    ]


def _text(content: object) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        parts = (part.get("text") for part in content if isinstance(part, Mapping))
        return "\n".join(part for part in parts if isinstance(part, str))
    return ""
