"""The interface of all trackers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Literal

from finetune_trainer.tracking.content import Facts, Point

RunStatus = Literal["RUNNING", "FINISHED", "FAILED", "KILLED"]
"""``RUNNING`` also between the stages; ``KILLED``: an attempt that was stopped from outside."""

MAX_WORDS = 160


class TrackerError(Exception):
    """A failed request to a tracker; the message holds no credential.

    ``is_refusal`` says that a repetition of the same request would fail too.
    """

    def __init__(self, words: str, *, is_refusal: bool = False) -> None:
        super().__init__(words)
        self.is_refusal = is_refusal


class Tracker(ABC):
    """The connection to one tracker for one run, used by one thread.

    Every call ends within seconds or raises :class:`TrackerError`, and may be repeated.

    Attributes:
        place: Its address, for messages.
        page: Address of the run's page; empty until there is one.
        is_open: Whether the run is open. A run that closes is opened again, and the curve is sent
            from its beginning.
    """

    def __init__(self, place: str) -> None:
        self.place = place
        self.page = ""
        self.is_open = False

    @abstractmethod
    def open(self) -> None:
        """Find or create the job's run, and resume it; sets ``is_open``."""

    @abstractmethod
    def send_facts(self, facts: Facts) -> None:
        """Send all facts beside the curve."""

    @abstractmethod
    def send_points(self, points: Sequence[Point]) -> None:
        """Send the next values of the curve."""

    @abstractmethod
    def close(self, status: RunStatus) -> None:
        """Send the end of the stage, and everything before it; no call may follow."""

    def stop(self) -> None:
        """Release all resources; from any thread, also while a call hangs."""
        return
