"""Whether a change of a trial needs a reconcile of its sweep. Pure.

A reconcile reads all trials of the sweep, and most changes of a trial do not affect it.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from finetune_operator.finetunejob.state.waiting import find_wait, phase_of
from finetune_operator.finetunesweep.trials.observed import owner_uid
from finetune_operator.finetunesweep.trials.trial import read_trial
from finetune_operator.status.conditions import ConditionType, Reason, find_condition

Object = dict[str, Any]

_EVENTS_OF_CHOSEN = ("phase", "reason", "conditions", "selection", "validation", "cost", "stages")
"""What a sweep reads of the trial that goes on, whose every step it tells."""
_EVER = datetime.min.replace(tzinfo=UTC)


def is_news(sweep: Object, old: Object | None, new: Object | None) -> bool:
    """Return whether a change affects the sweep's decisions or status.

    A trial that begins to wait does. One that continues does so only if the sweep reports a
    standstill. The duration of a wait does not count: a sweep with waiting trials is reconciled
    periodically.

    Args:
        sweep: The FineTuneSweep as it is cached.
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
    if is_released or _stands_still(sweep):
        return True
    if _is_at_work(old) and not _is_at_work(new):
        return True
    return _read(old, old_status) != _read(new, new_status)


def _stands_still(sweep: Object) -> bool:
    conditions = (sweep.get("status") or {}).get("conditions")
    told = find_condition(conditions, ConditionType.PROGRESSING) or {}
    return told.get("reason") == Reason.NO_HEADWAY


def _is_at_work(job: Object) -> bool:
    return phase_of(job) != "Suspended" and find_wait(job, _EVER, expects_progress=False) is None


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
