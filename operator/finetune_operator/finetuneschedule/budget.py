"""What a schedule has used of its budget in the present period."""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal

from finetune_api.meta import decimal_of, seconds_of
from finetune_api.v1alpha1.finetuneschedule import ScheduleBudget
from finetune_api.v1alpha1.status.schedule import FineTuneScheduleStatus, UsedStatus
from finetune_operator.finetunejob.state.gpu_time import decimal_or_zero
from finetune_operator.status.conditions import parse_timestamp, timestamp


def ends_at(used: UsedStatus, budget: ScheduleBudget) -> datetime | None:
    """Return the end of a period; None if its begin cannot be read."""
    since = parse_timestamp(used.since)
    return None if since is None else since + timedelta(seconds=seconds_of(budget.per))


def present(
    state: FineTuneScheduleStatus, budget: ScheduleBudget | None, now: datetime
) -> UsedStatus | None:
    """Return the present period; None before its first cycle, and without a budget."""
    if budget is None or state.used is None:
        return None
    end = ends_at(state.used, budget)
    return None if end is None or now >= end else state.used


def begun(used: UsedStatus | None, now: datetime) -> UsedStatus:
    """Return a period with one more cycle."""
    found = used or UsedStatus(since=timestamp(now))
    return found.model_copy(update={"jobs": found.jobs + 1})


def with_hours(used: UsedStatus | None, hours: Decimal) -> UsedStatus | None:
    """Return a period with the GPU hours of a job that has ended."""
    if used is None:
        return None
    total = decimal_or_zero(used.gpu_hours) + hours
    return used.model_copy(update={"gpu_hours": f"{total.normalize():f}"})


def hours_left(used: UsedStatus | None, budget: ScheduleBudget | None) -> Decimal | None:
    """Return the GPU hours that are left; None without a limit."""
    if budget is None or budget.gpu_hours is None:
        return None
    spent = decimal_or_zero(used.gpu_hours) if used is not None else Decimal(0)
    return decimal_of(budget.gpu_hours) - spent


def is_spent(used: UsedStatus | None, budget: ScheduleBudget | None) -> bool:
    """Return whether no further cycle may begin in the period."""
    if budget is None or used is None:
        return False
    left = hours_left(used, budget)
    no_jobs = budget.jobs is not None and used.jobs >= budget.jobs
    return no_jobs or (left is not None and left <= 0)
