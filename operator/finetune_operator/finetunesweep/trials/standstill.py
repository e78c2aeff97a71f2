"""Whether a sweep makes progress: a trial begins, reports a step or ends. Pure.

A sweep reacts to its trials within a second. So it stands still where all of them do, or where none
exists and none can be created. A suspended sweep does not count.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from finetune_operator.finetunejob.state.waiting import (
    Wait,
    bounded_reason,
    find_wait,
    phase_of,
    reason_of,
)
from finetune_operator.finetunesweep.trials.observed import owner_uid
from finetune_operator.status.conditions import (
    ConditionType,
    find_condition,
    is_terminal,
    parse_timestamp,
)

Object = dict[str, Any]

SUSPENDED = "Suspended"
_OVER = frozenset({"Succeeded", "Failed", "Pruned", "AwaitingSelection"})
"""Phases of trials that have done what they shall; one that is trained waits for the others."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Standstill:
    """A sweep without progress.

    Attributes:
        reason: State of the trial that moved last, as in jobs' waits; ``Suspended`` where all are;
            without any trial the reason in the sweep's status, bounded.
        trial: Name of that trial; empty without any.
    """

    seconds: float
    reason: str
    trial: str = ""


def find_standstill(sweep: Object, jobs: Iterable[Object], now: datetime) -> Standstill | None:
    """Return the standstill of a sweep; None while it makes progress.

    Args:
        sweep: The FineTuneSweep.
        jobs: The FineTuneJobs that are labelled with it.
        now: The present.
    """
    uid, status = sweep["metadata"]["uid"], sweep.get("status") or {}
    if is_terminal(status) or (sweep.get("spec") or {}).get("suspend"):
        return None
    trials = [job for job in jobs if owner_uid(job) == uid]
    waits: list[Wait] = []
    for trial in trials:
        if phase_of(trial) in _OVER:
            continue
        wait = _wait_of(trial, now)
        if wait is None:
            return None
        waits.append(wait)
    last = max(_changes(sweep, trials), default=now)
    seconds = max(0.0, min([(now - last).total_seconds(), *(each.seconds for each in waits)]))
    if not waits:
        return Standstill(seconds=seconds, reason=bounded_reason(status))
    # Trials that wait at a rung are suspended, and wait for one that is not.
    moved = min(waits, key=lambda wait: (wait.state == SUSPENDED, wait.seconds))
    return Standstill(seconds=seconds, reason=moved.state, trial=moved.name)


def _wait_of(trial: Object, now: datetime) -> Wait | None:
    """Return the cause and duration of a trial's wait; None while it runs.

    A trial that runs without reports counts as running.
    """
    if phase_of(trial) != SUSPENDED:
        return find_wait(trial, now, expects_progress=False)
    conditions = (trial.get("status") or {}).get("conditions")
    told = find_condition(conditions, ConditionType.SUSPENDED) or {}
    since = parse_timestamp(told.get("lastTransitionTime")) or now
    return Wait(
        namespace=trial["metadata"]["namespace"],
        name=trial["metadata"]["name"],
        state=SUSPENDED,
        reason=reason_of(trial),
        seconds=(now - since).total_seconds(),
    )


def _changes(sweep: Object, trials: Iterable[Object]) -> Iterator[datetime]:
    """Yield when the sweep and its trials were created, and when their conditions changed."""
    for each in (sweep, *trials):
        conditions = (each.get("status") or {}).get("conditions") or ()
        told = [condition.get("lastTransitionTime") for condition in conditions]
        times = map(parse_timestamp, [each["metadata"].get("creationTimestamp"), *told])
        yield from filter(None, times)
