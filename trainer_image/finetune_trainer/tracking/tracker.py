"""What a tracker is to a run: the one interface that every kind of them implements."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Literal

from finetune_trainer.tracking.content import Facts, Point

RunStatus = Literal["RUNNING", "FINISHED", "FAILED", "KILLED"]
"""``RUNNING`` also between the stages; ``KILLED``: an attempt that was stopped from outside."""

POLL_SECONDS = 2.0
MAX_WORDS = 160


class TrackerError(Exception):
    """The tracker could not do something; the words hold no credential.

    Attributes:
        is_refusal: It took offence at what was sent: the same again will not do better.
    """

    def __init__(self, words: str, *, is_refusal: bool = False) -> None:
        super().__init__(words)
        self.is_refusal = is_refusal


class Tracker(ABC):
    """One place that is told of one run, by one thread.

    Every call ends within seconds or raises :class:`TrackerError`, and may be made again with the
    same: what the place has already it is not told twice.

    Attributes:
        place: Its address, for messages.
        page: Where the run is to be seen; empty until there is something.
        is_open: Whether there is a run to tell of. One that closes in the middle is opened again,
            and told the curve from its beginning.
    """

    def __init__(self, place: str) -> None:
        self.place = place
        self.page = ""
        self.is_open = False

    @abstractmethod
    def open(self) -> None:
        """Find the job's run or make it, and have it go on; sets ``is_open``."""

    @abstractmethod
    def send_facts(self, facts: Facts) -> None:
        """Tell all that is known beside the curve."""

    @abstractmethod
    def send_points(self, points: Sequence[Point]) -> None:
        """Tell the next values of the curve."""

    @abstractmethod
    def close(self, status: RunStatus) -> None:
        """Say how the stage ended and have everything arrive; nothing is told afterwards."""

    def stop(self) -> None:
        """Let go of what is held. From any thread, also while a call hangs."""
        return

    def pause(self, running_seconds: float) -> float:
        """Return how long to wait before the curve is looked at again.

        Args:
            running_seconds: How long the stage has been told of.
        """
        return POLL_SECONDS
