"""``plan(observed, now, config)``: what to do about one FineTuneJob. Pure and total.

Total: every snapshot has a plan, also of objects that are half there, malformed or from the
future. Terminal is terminal: once Complete or Failed is true, the status is never written again.
"""

from __future__ import annotations

from datetime import datetime

from finetune_operator.config import OperatorConfig
from finetune_operator.domain.actions import DeleteSelf, Plan
from finetune_operator.domain.conditions import is_terminal
from finetune_operator.domain.lifecycle import Lifecycle, seconds_to_live, stop_actions
from finetune_operator.domain.observed import Observed
from finetune_operator.domain.stages import STAGES, view_stage

__all__ = ["plan"]


def plan(observed: Observed, now: datetime, config: OperatorConfig) -> Plan:
    """Decide what to do about one FineTuneJob.

    Args:
        observed: The snapshot.
        now: The present, with a time zone.
        config: The administrator's settings.
    """
    if observed.job["metadata"].get("deletionTimestamp"):
        # The garbage collector does the rest; there is no finalizer.
        return Plan()
    if is_terminal(observed.job.get("status")):
        return _after_the_end(observed, now)
    return Lifecycle(observed, now, config).plan()


def _after_the_end(observed: Observed, now: datetime) -> Plan:
    """Stop what still runs, and delete the job when its time is over."""
    views = [view_stage(observed, stage, now) for stage in STAGES]
    then = tuple(stop_actions(observed, views))
    ended = (observed.job.get("status") or {}).get("completionTime")
    left = seconds_to_live(observed.job, ended, now)
    if left is not None and left <= 0:
        return Plan(then=(DeleteSelf(),))
    return Plan(then=then, requeue_after=left)
