"""One number per user and look from captured rows: whoever asks much counts as others do. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from finetune_trainer.monitor.signals import Answered, Signal
from finetune_trainer.statistics.confidence import Floats
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


def numbers_by_user(rows: Sequence[UserRow], signal: Signal) -> Floats:
    """Return the mean of a signal over the rows of each user to which it applies."""
    found: dict[str, list[float]] = {}
    for row in rows:
        number = signal.measure(row.answered)
        if number is not None:
            found.setdefault(row.user, []).append(number)
    return np.array([sum(numbers) / len(numbers) for numbers in found.values()])


def find_extremes(
    rows: Sequence[UserRow], signal: Signal, *, is_higher: bool, number: int
) -> tuple[str, ...]:
    """Return response ids of the rows with the most extreme numbers, at most one of each user."""
    measured = [(signal.measure(row.answered), row) for row in rows]
    found = [(value if is_higher else -value, row) for value, row in measured if value is not None]
    ids: dict[str, str] = {}
    for _, row in sorted(found, key=lambda each: (-each[0], each[1].id)):
        ids.setdefault(row.user, row.id)
        if len(ids) == number:
            break
    return tuple(ids.values())


def _text(content: object) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        parts = (part.get("text") for part in content if isinstance(part, Mapping))
        return "\n".join(part for part in parts if isinstance(part, str))
    return ""
