"""Whether a change of a trial needs a reconcile of its sweep. Pure.

A reconcile reads all trials of the sweep, and most changes of a trial do not affect it.
"""

from __future__ import annotations

from typing import Any

from finetune_operator.finetunesweep.trials.observed import owner_uid
from finetune_operator.finetunesweep.trials.trial import read_trial

Object = dict[str, Any]

_EVENTS_OF_CHOSEN = ("phase", "reason", "conditions", "selection", "validation", "cost", "stages")
"""What a sweep reads of the trial that goes on, whose every step it tells."""


def is_news(old: Object | None, new: Object | None) -> bool:
    """Return whether a change affects the sweep's decisions or status.

    Args:
        old: The trial before; None if it is new.
        new: The trial after; None if it is gone.
    """
    if old is None or new is None:
        return True
    before, after = old["metadata"], new["metadata"]
    read = ("generation", "deletionTimestamp", "uid")
    if any(before.get(name) != after.get(name) for name in read):
        return True
    old_status, new_status = old.get("status") or {}, new.get("status") or {}
    if all(old_status.get(name) == new_status.get(name) for name in _EVENTS_OF_CHOSEN):
        return False
    is_released = not (new.get("spec") or {}).get("holdAfter")
    return is_released or _read(old, old_status) != _read(new, new_status)


def _read(job: Object, status: Object) -> tuple[object, ...]:
    """Return the fields that a plan reads of the status of a held or training trial."""
    trial = read_trial(job, ())
    if trial is None:
        return (owner_uid(job),)
    return (
        trial.state,
        trial.waits_for,
        trial.trains,
        trial.is_trained,
        trial.reason,
        trial.message,
        status.get("selection"),
        status.get("validation"),
        status.get("cost"),
    )
