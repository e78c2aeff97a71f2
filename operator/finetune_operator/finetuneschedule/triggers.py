"""Whether a schedule begins a cycle now, for which cause, and under which name."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from finetune_api.meta import seconds_of
from finetune_api.v1alpha1.evaluation.spec import most_looks
from finetune_api.v1alpha1.status.schedule import CountedStatus, FineTuneScheduleStatus, TriggerName
from finetune_operator.finetuneschedule.cron import Missed, times_of
from finetune_operator.finetuneschedule.observed import Observed
from finetune_operator.status.conditions import (
    ConditionType,
    find_condition,
    parse_timestamp,
    timestamp,
)

Object = dict[str, Any]
_LETTERS: dict[TriggerName, str] = {"NewRows": "r", "NewFeedback": "f", "Drift": "d", "Manual": "m"}

LEAST_LOOKS = 3
"""Evaluations of the held-out rows that drift leaves to other triggers."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Due:
    """A cause to begin a cycle.

    Attributes:
        job: Name of the FineTuneJob. The same cause always gives the same name.
        words: The cause in words.
        scheduled: The time of the cron table; None for another cause.
    """

    trigger: TriggerName
    job: str
    words: str
    scheduled: datetime | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class TooLate:
    """A start by the cron table that was missed by more than the deadline."""

    scheduled: datetime
    words: str


def find_missed(observed: Observed, state: FineTuneScheduleStatus, now: datetime) -> Missed | None:
    """Return the times of the cron table that have passed without a start; None if none has."""
    times = times_of(observed.spec.triggers)
    since = parse_timestamp(state.last_schedule_time) or observed.created_at
    return None if times is None or since is None else times.missed(since, now)


def find_due(
    observed: Observed, state: FineTuneScheduleStatus, missed: Missed | None, now: datetime
) -> Due | TooLate | None:
    """Return the first cause to begin a cycle; None if there is none."""
    if is_asked(observed, state):
        # With the time of the last trigger, a value that comes again has another name.
        identity = [observed.asked, state.last_trigger_time]
        return _named(observed, "Manual", identity, "the annotation finetune.dev/trigger")
    if missed is not None:
        deadline = observed.spec.starting_deadline_seconds
        if deadline is None or now - missed.last <= timedelta(seconds=deadline):
            minute = int(missed.last.timestamp()) // 60
            words = f"triggers.cron at {timestamp(missed.last)}"
            job = f"{observed.name}-{minute}"
            return Due(trigger="Cron", job=job, words=words, scheduled=missed.last)
        late = int((now - missed.last).total_seconds())
        words = (
            f"The start at {timestamp(missed.last)} was missed by {late} s, which is more than"
            f" startingDeadlineSeconds ({deadline}). It is left out."
        )
        return TooLate(scheduled=missed.last, words=words)
    return _find_in_traffic(observed, state)


def _find_in_traffic(observed: Observed, state: FineTuneScheduleStatus) -> Due | None:
    triggers, endpoint = observed.spec.triggers, observed.endpoint
    if endpoint is None:
        return None
    counted = count(endpoint, state.counted or CountedStatus())
    before = _baseline(counted, state.counted)
    if has_drifted(observed, state) and not keeps_looks(observed, state):
        left = looks_left(observed, state)
        known = "not known" if left is None else left
        words = f"drift of endpoint {endpoint['metadata']['name']} since {counted.drift_time}"
        words += f" (evaluations left for the held-out rows: {known})"
        return _named(observed, "Drift", counted.drift_time, words)
    for trigger, wanted, total, base, what in (
        ("NewFeedback", triggers.new_feedback, counted.feedback, before.feedback, "corrections"),
        ("NewRows", triggers.new_rows, counted.rows, before.rows, "answers"),
    ):
        if wanted is not None and total - base >= wanted:
            words = f"{total - base} new {what}, of {wanted} that are waited for"
            return _named(observed, trigger, [counted.since, base], words)  # type: ignore[arg-type]
    return None


def has_drifted(observed: Observed, state: FineTuneScheduleStatus) -> bool:
    """Return whether drift fires that has begun no cycle."""
    if observed.endpoint is None or not observed.spec.triggers.drift:
        return False
    counted = count(observed.endpoint, state.counted or CountedStatus())
    return counted.drift_time not in (None, _baseline(counted, state.counted).drift_time)


def keeps_looks(observed: Observed, state: FineTuneScheduleStatus) -> bool:
    """Return whether the last evaluations are kept from drift."""
    left = looks_left(observed, state)
    return left is not None and left < LEAST_LOOKS


def looks_left(observed: Observed, state: FineTuneScheduleStatus) -> int | None:
    """Return how many more evaluations can meet the goal at most; None if no job has counted."""
    last = state.history[-1].look if state.history else None
    goal = observed.spec.job_template.spec.goal
    most = most_looks(float(goal.certainty if goal else "0.95"))
    return None if last is None else max(0, most - last)


def is_asked(observed: Observed, state: FineTuneScheduleStatus) -> bool:
    """Return whether a person has asked for a cycle that has not begun."""
    return observed.asked not in ("", state.handled_trigger)


def count(endpoint: Object, known: CountedStatus) -> CountedStatus:
    """Return what an endpoint's status counts now; drift that is over stays what was known."""
    status = endpoint.get("status") or {}
    capture = status.get("capture") or {}
    drifted = find_condition(status.get("conditions"), ConditionType.DRIFTED) or {}
    is_drifted = drifted.get("status") == "True"
    return CountedStatus(
        since=capture.get("since"),
        rows=int(capture.get("rows") or 0),
        feedback=int(capture.get("feedback") or 0),
        drift_time=drifted.get("lastTransitionTime") if is_drifted else known.drift_time,
    )


def _baseline(counted: CountedStatus, known: CountedStatus | None) -> CountedStatus:
    """Return what is counted from: nothing, if the endpoint has begun to count anew."""
    if known is None:
        return CountedStatus(since=counted.since)
    if known.since != counted.since:
        return CountedStatus(since=counted.since, drift_time=known.drift_time)
    return known


def _named(observed: Observed, trigger: TriggerName, identity: object, words: str) -> Due:
    text = json.dumps([observed.uid, trigger, identity])
    digest = hashlib.sha256(text.encode()).hexdigest()[:7]
    return Due(trigger=trigger, job=f"{observed.name}-{_LETTERS[trigger]}{digest}", words=words)


def held_until(
    state: FineTuneScheduleStatus, distance: str | None, now: datetime
) -> datetime | None:
    """Return when the next cycle may begin that far after the last one; None if now."""
    last = parse_timestamp(state.last_trigger_time)
    if last is None or distance is None:
        return None
    end = last + timedelta(seconds=seconds_of(distance))
    return end if now < end else None
