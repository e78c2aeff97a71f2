"""The status of a FineTuneSweep being built during one plan."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Any

from finetune_api.v1alpha1.status.sweep import FineTuneSweepStatus
from finetune_operator.finetunejob.state.gpu_time import decimal_or_zero
from finetune_operator.status.draft import Draft
from finetune_operator.status.fitting import FittedStatus, StatusSchema

Object = dict[str, Any]

OWNED_FIELDS = (
    "observedGeneration",
    "phase",
    "reason",
    "progress",
    "conditions",
    "startTime",
    "completionTime",
    "counts",
    "objective",
    "best",
    "spent",
    "deleted",
    "trials",
)
STATUS = StatusSchema(FineTuneSweepStatus)
_LAZY_FIELDS = ("spent", "trials", "conditions")
_LAZY_OF_TRIALS = ("score", "low", "high", "loss", "step", "tokens")


class SweepDraft(Draft):
    """Mutable status of one plan."""

    def __init__(self, sweep: Object, now: datetime) -> None:
        super().__init__(sweep, STATUS, OWNED_FIELDS, now)

    @property
    def num_created(self) -> int:
        """Trials that the stored status knows of."""
        return int((self._stored.get("counts") or {}).get("created") or 0)

    @property
    def was_chosen(self) -> str:
        """Name of the trial that the stored status calls chosen; empty for none."""
        best = self._stored.get("best") or {}
        return str(best["name"]) if best.get("chosen") else ""

    def stored_state(self, name: str) -> str:
        """Return the state of a trial in the stored status; empty if it is not told there."""
        return str(self._told(name).get("state") or "")

    def stored_step(self, name: str) -> int:
        """Return the step up to which a trial was judged before; 0 for never."""
        return int(self._told(name).get("step") or 0)

    def stored_tokens(self, name: str) -> int:
        """Return the tokens of a trial in the stored status: the number never falls."""
        return int(self._told(name).get("tokens") or 0)

    @property
    def stored_gpu_hours(self) -> Decimal:
        """GPU hours that the stored status says were spent: the number never falls."""
        return decimal_or_zero((self._stored.get("spent") or {}).get("gpuHours"))

    def is_stored_replicate(self, name: str) -> bool:
        """Return whether a trial is a replicate in the stored status."""
        return bool(self._told(name).get("replicateOf"))

    def _told(self, name: str) -> Object:
        for entry in self._stored.get("trials") or ():
            if entry.get("name") == name:
                found: Object = entry
                return found
        return {}

    def to_wire(self, *, is_judged: bool) -> FittedStatus | None:
        """Return the status to write, or None if no important field changed.

        Args:
            is_judged: Whether a trial came to a step at which it is compared with others, which
                must be stored.
        """

        def is_news(wire: Object) -> bool:
            # A trial that the status has no room for is judged anew each time.
            if is_judged and _told_steps(wire) != _told_steps(self._stored):
                return True
            return _is_worth_writing(self._stored, wire)

        return self.fit(self.sections(), is_news)


def _told_steps(status: Object) -> list[tuple[Any, ...]]:
    return [(entry.get("name"), entry.get("step")) for entry in status.get("trials") or ()]


def _is_worth_writing(stored: Object, wire: Object) -> bool:
    """Compare, without changes that may wait for the next write: the state of a running trial."""
    eager = (key for key in OWNED_FIELDS if key not in _LAZY_FIELDS)
    if any(wire.get(key) != stored.get(key) for key in eager):
        return True
    return _settled(stored) != _settled(wire) or _verdicts(stored) != _verdicts(wire)


def _settled(status: Object) -> list[Object]:
    return [
        {key: value for key, value in entry.items() if key not in _LAZY_OF_TRIALS}
        for entry in status.get("trials") or ()
    ]


def _verdicts(status: Object) -> list[tuple[Any, ...]]:
    """Return the conditions without the message of ``Progressing``, which changes often."""
    return [
        (entry["type"], entry["status"], entry["reason"])
        + (() if entry["type"] == "Progressing" else (entry.get("message"),))
        for entry in status.get("conditions") or ()
    ]
