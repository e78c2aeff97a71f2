"""How long a job may run, and how long it is kept once it has ended."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from finetune_api.protocol.trainer import FailureClass
from finetune_api.v1alpha1.finetunejob import FineTuneJobSpec
from finetune_operator.finetunejob.lifecycle.stopping import cut, stage_to_cut
from finetune_operator.finetunejob.state.failure import Cause
from finetune_operator.finetunejob.state.step import Step
from finetune_operator.status.conditions import parse_timestamp, timestamp

Object = dict[str, Any]


def is_overdue(step: Step, spec: FineTuneJobSpec) -> bool:
    """End a job that ran for longer than ``activeDeadlineSeconds``; return whether it did."""
    limit = spec.active_deadline_seconds
    if limit is None:
        return False
    used = step.draft.active_seconds(step.views)
    # What has ended in time or late is ended; only what runs can be cut.
    view = stage_to_cut(step, spec)
    if view is None:
        return False
    if used < limit:
        if view.is_stoppable:
            step.look_again(max(1.0, limit - used))
        return False
    message = (
        f"The job ran for {used} s and activeDeadlineSeconds is {limit}; stage"
        f" {view.stage.value} was stopped. Raise the deadline in a new job, or ask for less:"
        " fewer epochs, more GPUs."
    )
    cause = Cause(
        failure_class=FailureClass.DEADLINE_EXCEEDED,
        reason="DeadlineExceeded",
        message=message,
        time=timestamp(step.now),
    )
    cut(step, spec, view, cause)
    return True


def seconds_to_live(job: Object, ended: str | None, now: datetime) -> float | None:
    """Return the seconds until ``ttlSecondsAfterFinished`` is over; None if nothing is to be done.

    Args:
        job: The FineTuneJob; its spec may be unreadable.
        ended: When it reached its end.
        now: The present.
    """
    ttl = (job.get("spec") or {}).get("ttlSecondsAfterFinished")
    moment = parse_timestamp(ended)
    if not isinstance(ttl, int) or moment is None:
        return None
    return ttl - (now - moment).total_seconds()
