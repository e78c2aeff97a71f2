"""``plan(observed, now)``: decisions on one FineTuneSchedule. Pure and total.

A cycle is written to the status before its job is created, and the job's name follows from the
cause. So an operator that dies between both, or a second leader, creates the same job.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from pydantic import ValidationError

from finetune_api.v1alpha1.status.schedule import (
    ActiveCycle,
    CountedStatus,
    EndedCycle,
    FineTuneScheduleStatus,
)
from finetune_operator.finetuneschedule import budget
from finetune_operator.finetuneschedule.actions import Object, Plan
from finetune_operator.finetuneschedule.cron import times_of
from finetune_operator.finetuneschedule.cycles import (
    WITHOUT_VERSION,
    deadline_of,
    jobs_to_delete,
    look_at,
    pause_after,
    seal,
)
from finetune_operator.finetuneschedule.draft import SECTIONS, ScheduleDraft
from finetune_operator.finetuneschedule.observed import Observed
from finetune_operator.finetuneschedule.rendering import render_job
from finetune_operator.finetuneschedule.triggers import (
    LEAST_LOOKS,
    Due,
    TooLate,
    count,
    find_due,
    find_missed,
    has_drifted,
    held_until,
    is_asked,
    keeps_looks,
    looks_left,
)
from finetune_operator.status.conditions import Reason, parse_timestamp, timestamp

__all__ = ["plan"]

MAX_WAIT_SECONDS = 60.0
"""A clock that was set is noticed after this long."""
_UNREADABLE = "Nothing is begun until CRD and operator are of one version."


@dataclass(frozen=True, kw_only=True, slots=True)
class _Wait:
    """Why no cycle begins now.

    Attributes:
        until: When that ends by itself; None if it does not.
    """

    reason: str
    message: str
    is_ready: bool = True
    is_stalled: bool = False
    until: datetime | None = None


def plan(observed: Observed, now: datetime) -> Plan:
    """Return the decisions on one schedule.

    Args:
        observed: The snapshot.
        now: The present, with a time zone.
    """
    if observed.schedule["metadata"].get("deletionTimestamp"):
        return Plan()
    draft = ScheduleDraft(observed.schedule, now)
    if observed.parsed is None:
        message = f"This version of the operator cannot read the spec: {observed.problem}."
        draft.set_ready(ready=False, reason=Reason.INVALID_SPEC, message=message, stalled=True)
        return Plan(status=draft.to_wire())
    try:
        state = _read(observed.schedule)
    except ValidationError as error:
        conditions = draft.stall_unreadable(error, _UNREADABLE)
        events = tuple(draft.events)
        return Plan(conditions=conditions, events=events, requeue_after=MAX_WAIT_SECONDS)
    state = _go_on(draft, observed, state, now)
    wait = None if state.active is not None else _why_not(observed, state, now)
    if state.active is None and wait is None:
        state = _begin(draft, observed, state, now)
        wait = None if state.active is not None else _nothing_due(observed, state, now)
    state = _with_next(observed, state, now)
    draft.put_state(state)
    _set_conditions(draft, observed, state, wait)
    return Plan(
        status=draft.to_wire(),
        events=tuple(draft.events),
        create=_job_to_create(observed, state, now),
        delete=jobs_to_delete(observed, state),
        requeue_after=_rest(observed, state, wait, now),
    )


def _read(schedule: Object) -> FineTuneScheduleStatus:
    stored = schedule.get("status") or {}
    known = {name: stored[name] for name in SECTIONS if name in stored}
    return FineTuneScheduleStatus.model_validate(known, by_alias=True, by_name=False)


def _go_on(
    draft: ScheduleDraft, observed: Observed, state: FineTuneScheduleStatus, now: datetime
) -> FineTuneScheduleStatus:
    """Return the state with the cycle under way as it is now; an ended one is in the history."""
    if (before := state.active) is None:
        return state
    cycle = look_at(observed, before, now)
    update: dict[str, object] = {"active": cycle, "anchor": seal(observed.job, state.anchor)}
    if before.waits_for == "Job" and getattr(cycle, "waits_for", "") != "Job":
        used = budget.present(state, observed.spec.budget, now)
        update["used"] = budget.with_hours(used, observed.gpu_hours)
    if isinstance(cycle, EndedCycle):
        history = [*state.history, cycle][-observed.spec.history_limit :]
        pause = pause_after(observed, state.backoff, cycle)
        update |= {"active": None, "history": history, "backoff": pause}
        text = f"{cycle.trigger} of {cycle.time}, FineTuneJob {cycle.job}: {cycle.message}"
        draft.announce(f"Cycle{cycle.outcome}", text, warning=cycle.outcome in WITHOUT_VERSION)
    return state.model_copy(update=update)


def _why_not(observed: Observed, state: FineTuneScheduleStatus, now: datetime) -> _Wait | None:
    """Return why no cycle may begin, whatever the triggers say; None if one may."""
    spec = observed.spec
    times = times_of(spec.triggers)
    if times is not None and times.problem:
        return _Wait(
            reason=Reason.INVALID_SCHEDULE,
            message=f"{times.problem}.",
            is_ready=False,
            is_stalled=True,
        )
    if (why := _endpoint_is_gone(observed)) is not None:
        return why
    if spec.suspend:
        text = "spec.suspend is true. No cycle begins."
        return _Wait(reason=Reason.SUSPENDED_BY_USER, message=text, is_ready=False)
    if (why := _beyond_bounds(observed, now)) is not None:
        return why
    used = budget.present(state, spec.budget, now)
    if spec.budget is not None and used is not None and budget.is_spent(used, spec.budget):
        end = budget.ends_at(used, spec.budget)
        text = (
            f"The budget is used up: {used.jobs} jobs and {used.gpu_hours} GPU hours since"
            f" {used.since}. The next period begins at {timestamp(end) if end else '?'}."
        )
        return _Wait(reason=Reason.BUDGET_SPENT, message=text, is_ready=False, until=end)
    # What a person asks for is a write of their own: it waits for no pause.
    return None if is_asked(observed, state) else _pause(observed, state, now)


def _beyond_bounds(observed: Observed, now: datetime) -> _Wait | None:
    """Return which bound of the administrator the schedule is beyond; None if none."""
    settings = observed.settings
    if settings is None:
        return None
    if observed.num_older >= settings.max_schedules:
        reason = Reason.TOO_MANY_SCHEDULES
        text = (
            f"{observed.num_older} older schedules of this namespace are not suspended, and"
            f" config.maxSchedules is {settings.max_schedules}: suspend or delete one of them, or"
            " ask your administrator for more."
        )
    elif observed.num_jobs >= settings.max_schedule_jobs:
        reason = Reason.TOO_MANY_JOBS
        text = (
            f"The schedules of this namespace have {observed.num_jobs} FineTuneJobs, and"
            f" config.maxScheduleJobs is {settings.max_schedule_jobs}: set a smaller"
            " successfulJobsHistoryLimit or failedJobsHistoryLimit, or delete jobs."
        )
    else:
        return None
    until = now + timedelta(seconds=MAX_WAIT_SECONDS)
    return _Wait(reason=reason, message=text, is_ready=False, is_stalled=True, until=until)


def _pause(observed: Observed, state: FineTuneScheduleStatus, now: datetime) -> _Wait | None:
    """Return the pause that no trigger ends; None if there is none."""
    pause = state.backoff
    if pause is not None and pause.generation == observed.generation:
        until = datetime.fromisoformat(pause.until)
        if now < until:
            text = (
                f"Cycles in a row without a version: {pause.cycles}; status.history says why. The"
                f" next may begin at {pause.until}. An edit of the spec ends the pause, and the"
                " annotation finetune.dev/trigger does not wait for it."
            )
            return _Wait(reason=Reason.BACKOFF, message=text, is_ready=False, until=until)
    last = f"The last cycle began at {state.last_trigger_time}. The next may at"
    if (cooled := held_until(state, observed.spec.cooldown, now)) is not None:
        text = f"{last} {timestamp(cooled)} (spec.cooldown)."
        return _Wait(reason=Reason.COOLING_DOWN, message=text, until=cooled)
    least = None if observed.settings is None else observed.settings.min_cycle_interval
    if (held := held_until(state, least, now)) is None:
        return None
    if not isinstance(find_due(observed, state, find_missed(observed, state, now), now), Due):
        return None
    text = (
        f"{last} {timestamp(held)}: config.minCycleInterval is {least}, and a trigger has fired"
        f" already. Write rarer triggers or cooldown: {least}, or ask your administrator."
    )
    return _Wait(reason=Reason.TOO_FREQUENT, message=text, is_ready=False, until=held)


def _endpoint_is_gone(observed: Observed) -> _Wait | None:
    """Return why nothing can be trained for an endpoint that is not there."""
    reference = observed.spec.endpoint_ref
    if reference is None or observed.endpoint is not None:
        return None
    text = f"There is no FineTuneEndpoint {reference.name} in this namespace."
    return _Wait(reason=Reason.ENDPOINT_NOT_FOUND, message=text, is_ready=False)


def _begin(
    draft: ScheduleDraft, observed: Observed, state: FineTuneScheduleStatus, now: datetime
) -> FineTuneScheduleStatus:
    """Return the state with a new cycle, where there is cause for one."""
    missed = find_missed(observed, state, now)
    if missed is not None and missed.is_too_many:
        text = (
            "More than 100 starts were missed. Was a pause or a cycle long, the operator away, or"
            " the clock set? The last one is made up for; startingDeadlineSeconds would leave it"
            " out."
        )
        draft.announce("TooManyMissedTimes", text, warning=True)
    due = find_due(observed, state, missed, now)
    if isinstance(due, TooLate):
        draft.announce("MissedStart", due.words, warning=True)
        state = state.model_copy(update={"last_schedule_time": timestamp(due.scheduled)})
        due = find_due(observed, state, None, now)
    if not isinstance(due, Due):
        return state
    draft.announce("Triggered", f"Cycle {due.job} begins, because of {due.words}.")
    look = state.history[-1].look if state.history else None
    update: dict[str, object] = {
        "active": ActiveCycle(time=timestamp(now), trigger=due.trigger, job=due.job, look=look),
        "last_trigger_time": timestamp(now),
    }
    if due.scheduled is not None:
        update["last_schedule_time"] = timestamp(due.scheduled)
    if due.trigger == "Manual":
        update["handled_trigger"] = observed.asked
    if observed.endpoint is not None:
        update["counted"] = count(observed.endpoint, state.counted or CountedStatus())
    if observed.spec.budget is not None:
        used = budget.present(state, observed.spec.budget, now)
        update["used"] = budget.begun(used, now)
    return state.model_copy(update=update)


def _nothing_due(observed: Observed, state: FineTuneScheduleStatus, now: datetime) -> _Wait:
    triggers = observed.spec.triggers
    if has_drifted(observed, state) and keeps_looks(observed, state):
        text = (
            f"Drift has fired. {looks_left(observed, state)} more evaluations of the held-out rows"
            f" can meet the goal, and drift needs {LEAST_LOOKS}. Name new rows in"
            " jobTemplate.spec.dataset.anchor and run finetune schedule trigger, or create another"
            " FineTuneSchedule."
        )
        return _Wait(reason=Reason.FEW_LOOKS_LEFT, message=text, is_ready=False)
    asked = {
        "its cron table": triggers.cron is not None,
        f"{triggers.new_rows} new answers": triggers.new_rows is not None,
        f"{triggers.new_feedback} new corrections or ratings": triggers.new_feedback is not None,
        "drift": triggers.drift,
    }
    text = f"It waits for {' or '.join(name for name, is_asked in asked.items() if is_asked)}."
    last = parse_timestamp(state.last_schedule_time)
    if triggers.cron is not None and last is not None and last > now:
        text += (
            f" A clock was wrong: the start at {timestamp(last)} has been made. Until then"
            " triggers.cron begins none; finetune schedule trigger does."
        )
    return _Wait(reason=Reason.WAITING_FOR_TRIGGER, message=text)


def _with_next(
    observed: Observed, state: FineTuneScheduleStatus, now: datetime
) -> FineTuneScheduleStatus:
    times = times_of(observed.spec.triggers)
    since = max(now, parse_timestamp(state.last_schedule_time) or now)
    found = (
        None if times is None or times.problem or observed.spec.suspend else times.next_after(since)
    )
    return state.model_copy(update={"next_trigger_time": timestamp(found) if found else None})


def _set_conditions(
    draft: ScheduleDraft, observed: Observed, state: FineTuneScheduleStatus, wait: _Wait | None
) -> None:
    if wait is not None:
        draft.set_ready(
            ready=wait.is_ready, reason=wait.reason, message=wait.message, stalled=wait.is_stalled
        )
        return
    cycle, refusal = state.active, observed.refusal
    assert cycle is not None
    if cycle.job_uid is None and (why := _endpoint_is_gone(observed)) is not None:
        draft.set_ready(ready=False, reason=why.reason, message=why.message)
        return
    if cycle.job_uid is None and refusal is not None:
        message = f"FineTuneJob {cycle.job} cannot be created: {refusal.message}"
        draft.set_ready(ready=False, reason=refusal.reason, message=message, stalled=True)
        return
    text = f"FineTuneJob {cycle.job} runs, because of trigger {cycle.trigger}."
    if cycle.waits_for == "Traffic":
        text = f"Version {cycle.version} of FineTuneJob {cycle.job} has to prove itself in traffic."
    draft.set_ready(ready=True, reason=Reason.CYCLE_RUNNING, message=text)


def _job_to_create(
    observed: Observed, state: FineTuneScheduleStatus, now: datetime
) -> Object | None:
    cycle = state.active
    if cycle is None or cycle.job_uid is not None:
        return None
    spec, endpoint = observed.spec, observed.endpoint
    if _endpoint_is_gone(observed) is not None:
        return None  # nobody knows the name of its versions
    name = observed.name if endpoint is None else str(endpoint["spec"]["jobRef"]["name"])
    used = budget.present(state, spec.budget, now)
    return render_job(
        observed.owner,
        observed.schedule["spec"]["jobTemplate"],
        spec,
        cycle,
        published_name=name,
        anchor=state.anchor,
        gpu_hours_left=budget.hours_left(used, spec.budget),
    )


def _rest(
    observed: Observed, state: FineTuneScheduleStatus, wait: _Wait | None, now: datetime
) -> float | None:
    """Return in how many seconds time alone may change something; None if it cannot."""
    moments = [] if wait is None or wait.until is None else [wait.until]
    if state.active is not None:
        moments.append(deadline_of(observed, state.active))
    if state.active is None and state.next_trigger_time is not None:
        moments.append(datetime.fromisoformat(state.next_trigger_time))
    if not moments:
        return None
    return max(0.05, min(MAX_WAIT_SECONDS, (min(moments) - now).total_seconds()))
