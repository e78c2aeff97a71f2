"""Keeps a run in a tracker up to date, from a thread of its own per tracker.

The curve on the disk is the queue, so memory stays bounded during an outage. The thread runs in the
parent of a training. A failure is reported once, and retried with growing pauses.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from finetune_api.protocol.stage_results import TrackingResult
from finetune_trainer.tracking.content import Facts, facts_of_recipe
from finetune_trainer.tracking.curve import CurveReader
from finetune_trainer.tracking.tracker import RunStatus, Tracker, TrackerError

POLL_SECONDS = 2.0
LONGEST_WAIT_SECONDS = 60.0
MAX_PROBLEM = 300
MAX_PAGE = 512


class Tracking:
    """Sends one stage to one tracker.

    Args:
        tracker: The tracker.
        facts: The known facts at the start.
        curve: ``metrics.jsonl``; None for a stage without one.
        recipe: File of the settled recipe; None likewise.
        tell: Called with a message for people, from the thread.
        pause_seconds: Wait between two looks at the curve.
    """

    def __init__(
        self,
        tracker: Tracker,
        facts: Facts,
        *,
        curve: Path | None = None,
        recipe: Path | None = None,
        tell: Callable[[str], None],
        pause_seconds: float = POLL_SECONDS,
    ) -> None:
        self._tracker = tracker
        self._curve = CurveReader(curve) if curve else None
        self._recipe = recipe
        self._tell = tell
        self._pause_seconds = pause_seconds
        self._lock = threading.Lock()
        self._facts = facts
        self._status: RunStatus = "RUNNING"
        self._problem = ""
        self._has_told = False
        self._has_lost = False
        self._is_abandoned = False
        self._closing = threading.Event()
        self._is_delivered = False
        self._thread = threading.Thread(
            target=self._work, name=f"tracking {tracker.place}", daemon=True
        )

    def start(self) -> Tracking:
        """Start the thread."""
        self._thread.start()
        return self

    def add(self, facts: Facts, *, curve: Path | None = None) -> None:
        """Add facts to send."""
        with self._lock:
            if curve is not None:
                self._curve = CurveReader(curve)
            self._facts = self._facts.and_also(facts)

    def begin_to_close(self, status: RunStatus) -> None:
        """Make the thread send the end of the stage, and stop."""
        with self._lock:
            self._status = status
        self._closing.set()

    def wait(self, seconds: float) -> None:
        """Wait so long at most until it has."""
        self._thread.join(max(0.0, seconds))
        if self._thread.is_alive():
            if not self._problem:
                self._note(f"{self._tracker.place} did not take everything in time")
            self._is_abandoned = True
        self._tracker.stop()

    @property
    def page(self) -> str:
        """Address of the run's page, or empty."""
        return self._tracker.page[:MAX_PAGE]

    @property
    def problem(self) -> str:
        """Why the tracker lacks something; empty if it has all."""
        return "" if self._is_delivered else self._problem

    def _work(self) -> None:
        wait = self._pause_seconds
        while True:
            is_last = self._closing.wait(wait)
            is_done = self._try_all(is_last=is_last)
            if is_last:
                self._is_delivered = is_done
                return
            longer = max(self._pause_seconds, min(2 * wait, LONGEST_WAIT_SECONDS))
            wait = self._pause_seconds if is_done else longer

    def _try_all(self, *, is_last: bool) -> bool:
        """Bring the tracker up to date; return whether it is."""
        try:
            return self._bring_up_to_date(is_last=is_last)
        except TrackerError as error:
            self._note(str(error))
        except Exception as error:  # a tracker is never worth a job
            self._note(f"{self._tracker.place}: {type(error).__name__}")
        return False

    def _bring_up_to_date(self, *, is_last: bool) -> bool:
        tracker = self._tracker
        with self._lock:
            facts, curve, status = self._facts, self._curve, self._status
        if not tracker.is_open:
            tracker.open()
            if curve is not None:
                curve.rewind()
        is_done = self._settle(partial(tracker.send_facts, facts.and_also(self._read_recipe())))
        for points in curve.pieces() if curve else ():
            self._has_lost |= not self._settle(partial(tracker.send_points, points))
        if is_last:
            tracker.close(status)
        return is_done and not self._has_lost

    def _settle(self, act: Callable[[], None]) -> bool:
        """Send one thing; a refusal does not stop the others."""
        try:
            act()
        except TrackerError as error:
            if not error.is_refusal:
                raise
            self._note(str(error))
            return False
        return True

    def _read_recipe(self) -> Facts:
        if self._recipe is None or not self._recipe.exists():
            return Facts()
        try:
            return facts_of_recipe(json.loads(self._recipe.read_text()))
        except ValueError:
            return Facts()  # it is being written

    def _note(self, problem: str) -> None:
        if self._is_abandoned:
            return  # what becomes of a call that was cut off says nothing
        self._problem = problem[:MAX_PROBLEM]
        if not self._has_told:
            self._has_told = True
            self._tell(f"tracking: {self._problem}. The job does not need it and goes on")


def close_all(
    trackings: Sequence[Tracking], status: RunStatus, *, patience_seconds: float
) -> TrackingResult:
    """Send the end of the stage to all trackers at the same time.

    ``status`` is ``RUNNING`` if a later stage follows. ``patience_seconds`` limits all of them
    together.

    Returns:
        Pages of the run, and failures.
    """
    end = time.monotonic() + patience_seconds
    for tracking in trackings:
        tracking.begin_to_close(status)
    for tracking in trackings:
        tracking.wait(end - time.monotonic())
    problems = [tracking.problem for tracking in trackings if tracking.problem]
    return TrackingResult(
        uris=[tracking.page for tracking in trackings if tracking.page],
        problem="; ".join(problems)[:MAX_PROBLEM],
    )
