"""The status of a FineTuneEndpoint being built during one plan."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import Any

from finetune_api.v1alpha1.status.endpoint import FineTuneEndpointStatus
from finetune_operator.finetuneendpoint.rotation import SECTIONS, Rotation
from finetune_operator.status.conditions import parse_timestamp
from finetune_operator.status.draft import Draft
from finetune_operator.status.fitting import FittedStatus, StatusSchema

Object = dict[str, Any]

OWNED_FIELDS = (
    "observedGeneration",
    "phase",
    "reason",
    "url",
    "model",
    "conditions",
    "capture",
    "monitor",
    *SECTIONS,
)
STATUS = StatusSchema(FineTuneEndpointStatus)
MAX_STATUS_BYTES = 20_000
COUNTS_INTERVAL = timedelta(seconds=5)
"""Shortest time between two writes that change only counts and messages."""
CAPTURED_INTERVAL = timedelta(minutes=10)
"""Time after which a small growth of the counts of captured answers is written by itself."""
CAPTURED_SHARE = 0.1
"""A growth by this share of a count is written at once."""
_COUNTS = ("rows", "feedback", "countedTime")
_LAZY_OF_CANDIDATE = ("streams", "evidence", "requests")
_WARNINGS = ("Refused", "Held", "RolledBack")


class EndpointDraft(Draft):
    """Mutable status of one plan."""

    def __init__(self, endpoint: Object, now: datetime) -> None:
        super().__init__(endpoint, STATUS, OWNED_FIELDS, now)

    def put_rotation(self, rotation: Rotation) -> None:
        """Replace the versions; announce what was decided on them."""
        wire = rotation.to_wire()
        for section in SECTIONS:
            self.drop(section)
            if section in wire:
                self.put(section, wire[section])
        for made in rotation.news:
            is_warning = made.action in _WARNINGS
            self.announce(
                made.action, f"Version {made.version}: {made.message}", warning=is_warning
            )

    def to_wire(self, written_at: datetime | None) -> tuple[FittedStatus | None, float | None]:
        """Return the status to write, or None if nothing of importance has changed.

        Args:
            written_at: When the status was last written; None if that is not known.

        Returns:
            The status, and in how many seconds counts that wait now may be written; None if none
            wait.
        """
        wire = _bounded(self.sections())
        may_count = written_at is None or self.now - written_at >= COUNTS_INTERVAL
        captured_at = _due_of_captured(self._stored.get("capture"), wire.get("capture"), self.now)

        def is_new(new: Object) -> bool:
            old = self._stored
            if captured_at > self.now:
                old, new = _without_captured(old), _without_captured(new)
            return new != old if may_count else _eager(new) != _eager(old)

        fitted = self.fit(wire, is_new)
        if fitted is not None or wire == self._stored:
            return fitted, None
        due = captured_at
        if written_at is not None and not may_count:
            due = max(due, written_at + COUNTS_INTERVAL)
        return None, max(0.0, (due - self.now).total_seconds()) or None


def _due_of_captured(before: Object | None, after: Object | None, now: datetime) -> datetime:
    """Return when counts of captured answers are worth a write of their own."""
    before, after = before or {}, after or {}
    counted = parse_timestamp(before.get("countedTime"))
    for name in ("rows", "feedback"):
        old, new = before.get(name, 0), after.get(name, 0)
        if new - old >= max(1, CAPTURED_SHARE * old):
            return now
    return now if counted is None else max(now, counted + CAPTURED_INTERVAL)


def _without_captured(status: Object) -> Object:
    capture = status.get("capture") or {}
    return {**status, "capture": {k: v for k, v in capture.items() if k not in _COUNTS}}


def _eager(status: Object) -> Object:
    """Return a status without what may wait for the next write: counts and messages."""
    eager = dict(status)
    if candidate := status.get("candidate"):
        eager["candidate"] = {k: v for k, v in candidate.items() if k not in _LAZY_OF_CANDIDATE}
    eager["conditions"] = [
        (each["type"], each["status"], each["reason"]) for each in status.get("conditions") or ()
    ]
    return eager


def _bounded(wire: Object) -> Object:
    """Drop the oldest decisions until the status is as small as it has to be."""
    while len(wire.get("decisions") or ()) > 1 and _num_bytes(wire) > MAX_STATUS_BYTES:
        wire = {**wire, "decisions": wire["decisions"][1:]}
    return wire


def _num_bytes(wire: Object) -> int:
    return len(json.dumps(wire, separators=(",", ":"), ensure_ascii=False).encode())
