"""``plan(observed, now, config)``: what to do about one FineTuneJob. Pure and total.

Total: every snapshot has a plan, also of objects that are half there, malformed or from the
future. Terminal is terminal: once Complete, Failed or Pruned is true, it stays so, and nothing is
written any more but what a person decides to publish afterwards.
"""

from __future__ import annotations

from datetime import datetime

from finetune_api.protocol.trainer import Stage
from finetune_operator.config import OperatorConfig
from finetune_operator.finetunejob.lifecycle.deadlines import seconds_to_live
from finetune_operator.finetunejob.lifecycle.overriding import (
    follow_override,
    is_overriding,
    set_own_approvals,
)
from finetune_operator.finetunejob.lifecycle.walk import walk
from finetune_operator.finetunejob.pods.pausing import release_actions
from finetune_operator.finetunejob.state.actions import DeleteSelf, Plan
from finetune_operator.finetunejob.state.observed import Observed
from finetune_operator.finetunejob.state.step import Step
from finetune_operator.status.conditions import is_terminal

__all__ = ["plan"]


def plan(observed: Observed, now: datetime, config: OperatorConfig) -> Plan:
    """Decide what to do about one FineTuneJob.

    Args:
        observed: The snapshot.
        now: The present, with a time zone.
        config: The administrator's settings.
    """
    step = Step(observed, now, config)
    if observed.job["metadata"].get("deletionTimestamp"):
        # The operator has no finalizer, and the garbage collector deletes the children. Where
        # somebody else's finalizer keeps the object, it does not yet: what runs is stopped.
        is_kept = "finalizers" in observed.job["metadata"]
        return Plan(then=tuple(release_actions(observed, step.views)) if is_kept else ())
    if is_terminal(observed.job.get("status")):
        return _after_the_end(step)
    walk(step)
    return step.to_plan()


def _after_the_end(step: Step) -> Plan:
    """Stop what still runs, publish what somebody decided on, delete the job in the end."""
    observed = step.observed
    is_decided = follow_override(step)
    published_by = Stage.PUBLISH if is_overriding(step.draft) else None
    stopped = [view for view in step.views if view.stage is not published_by]
    then = tuple(release_actions(observed, stopped))
    ended = (observed.job.get("status") or {}).get("completionTime")
    left = seconds_to_live(observed.job, ended, step.now)
    if left is not None and left <= 0 and not is_decided:
        return Plan(then=(DeleteSelf(),))
    if left is not None and not is_overriding(step.draft):
        step.look_again(max(0.0, left))
    is_told = is_decided or set_own_approvals(step)
    status = step.draft.to_wire() if is_told else None
    return Plan(
        first=tuple(step.first),
        status=status,
        events=tuple(step.draft.events) if status is not None else (),
        then=then,
        requeue_after=step.requeue_after,
    )
