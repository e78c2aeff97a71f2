"""Captured answers as the monitor reads them, and one number per user and signal from them. Pure.

A user who asks much counts as others do. Rows are read once, and memory does not grow with them.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from finetune_trainer.monitor.signals import Answered, Signal
from finetune_trainer.statistics.confidence import Floats
from finetune_trainer.traffic.rows import Exchange

MAX_USERS = 20_000
"""Users who count in a look. Of more, a digest chooses these: it depends on nothing they do."""


@dataclass(frozen=True, kw_only=True, slots=True)
class UserRow:
    """A captured answer and whose it is."""

    answered: Answered
    user: str
    id: str = ""


def read_exchange(row: Exchange, down: Container[str] = ()) -> UserRow:
    """Return what is watched of a captured answer; ``down`` has ids of those marked as bad.

    Of the prompt it is the last text of the user: earlier ones were watched with their own answers.

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
            prompt=texts[-1] if texts else "",
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


class Tally:
    """The users' means of some signals, and the rows with the most extreme numbers."""

    def __init__(
        self, signals: Iterable[Signal], *, max_users: int = MAX_USERS, num_examples: int = 0
    ) -> None:
        """Begin without rows.

        Args:
            signals: What is measured.
            max_users: Users who count.
            num_examples: Extreme rows that are kept of each signal.
        """
        self.num_rows = 0
        self._max_users = max_users
        self._signals = {signal.name: signal for signal in signals}
        self._users: dict[str, int] = {}
        self._bound: bytes | None = None
        # By signal and number of the user.
        self._sums = {name: array("d") for name in self._signals}
        self._counts = {name: array("L") for name in self._signals}
        self._extremes = {
            (name, is_higher): _Extremes(num_examples)
            for name in self._signals
            for is_higher in (False, True)
        }

    def add(self, row: UserRow) -> None:
        """Count a row."""
        self.num_rows += 1
        user = self._number_of(row.user)
        for name, signal in self._signals.items():
            number = signal.measure(row.answered)
            if number is None:
                continue
            if user is not None:
                self._sums[name][user] += number
                self._counts[name][user] += 1
            self._extremes[name, True].add(-number, row)
            self._extremes[name, False].add(number, row)

    @property
    def num_users(self) -> int:
        """Users so far, until there are more than count."""
        return len(self._users)

    def numbers(self) -> dict[str, Floats]:
        """Return, by signal, the mean of each user to whom it applies, in an order by chance."""
        if len(self._users) > self._max_users:
            self._choose_users()
        order = [self._users[user] for user in sorted(self._users, key=_digest)]
        found = {}
        for name in self._signals:
            sums = np.array(self._sums[name], dtype=np.float64)[order]
            counts = np.array(self._counts[name], dtype=np.float64)[order]
            found[name] = sums[counts > 0] / counts[counts > 0]
        return found

    def examples_of(self, name: str, *, is_higher: bool) -> tuple[str, ...]:
        """Return ids of the rows with the most extreme numbers of a signal, one of each user."""
        return self._extremes[name, is_higher].ids

    def _number_of(self, user: str) -> int | None:
        """Return the number of a user; None if it does not count."""
        known = self._users.get(user)
        if known is not None:
            return known
        if self._bound is not None and _digest(user) > self._bound:
            return None
        # Not at each new user: to choose takes as long as there are users.
        if len(self._users) >= 2 * self._max_users:
            self._choose_users()
            return self._number_of(user)
        self._users[user] = number = len(self._users)
        for name in self._signals:
            self._sums[name].append(0.0)
            self._counts[name].append(0)
        return number

    def _choose_users(self) -> None:
        """Forget the users with the greatest digests: none of them can count any more."""
        kept = sorted(self._users, key=_digest)[: self._max_users]
        self._bound = _digest(kept[-1])
        chosen = sorted(self._users[user] for user in kept)
        for name in self._signals:
            sums, counts = self._sums[name], self._counts[name]
            self._sums[name] = array("d", [sums[number] for number in chosen])
            self._counts[name] = array("L", [counts[number] for number in chosen])
        places = {number: place for place, number in enumerate(chosen)}
        self._users = {user: places[self._users[user]] for user in kept}


class _Extremes:
    """The rows with the least numbers, at most one of each user."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._least: dict[str, tuple[float, str]] = {}
        self._worst: tuple[float, str] | None = None

    def add(self, value: float, row: UserRow) -> None:
        found = (value, row.id)
        is_full = len(self._least) >= self._number
        if is_full and (self._worst is None or found >= self._worst):
            return
        known = self._least.get(row.user)
        if known is None and is_full:
            del self._least[max(self._least, key=lambda user: self._least[user])]
        if known is None or found < known:
            self._least[row.user] = found
        self._worst = max(self._least.values())

    @property
    def ids(self) -> tuple[str, ...]:
        return tuple(identity for _, identity in sorted(self._least.values()))


def _digest(user: str) -> bytes:
    return hashlib.sha256(user.encode("utf-8", "surrogatepass")).digest()
