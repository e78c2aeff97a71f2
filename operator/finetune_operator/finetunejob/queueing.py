"""What Kueue says of a stage, in the job's own conditions."""

from __future__ import annotations

from finetune_api.v1alpha1.finetunejob import FineTuneJobSpec
from finetune_operator.finetunejob.failure import seconds_waiting
from finetune_operator.finetunejob.observed import QueueState
from finetune_operator.finetunejob.render.job import is_queued
from finetune_operator.finetunejob.stages import StageState, StageView
from finetune_operator.finetunejob.step import Step
from finetune_operator.status.conditions import ConditionType, Reason

QUEUE_GRACE_SECONDS = 60.0
"""How long a queued Job may be without a Workload before its queue is in doubt."""

_UNMANAGED = (
    "No Kueue Workload exists for the Job: is the namespace managed by Kueue, and does the"
    " LocalQueue exist? The Job stays suspended."
)


def tell_quota(step: Step, spec: FineTuneJobSpec, view: StageView) -> None:
    """Say whether a stage has its quota, and why not."""
    queue = step.observed.queue.get(view.stage)
    if queue is not None:
        _mirror(step, spec, view, queue)
    elif is_queued(spec, view.stage) and view.state is StageState.SUSPENDED:
        _tell_unmanaged(step, view)


def _mirror(step: Step, spec: FineTuneJobSpec, view: StageView, queue: QueueState) -> None:
    conditions = step.draft.conditions
    step.is_queued = not queue.is_admitted
    had_quota = conditions.status_of(ConditionType.QUOTA_RESERVED) == "True"
    if had_quota and queue.is_evicted and queue.is_active and not spec.suspend:
        text = f"{view.stage.value}: {queue.reason}: {queue.message}"
        step.draft.announce("Preempted", text, warning=True)
    conditions.set(ConditionType.QUOTA_RESERVED, queue.is_admitted, queue.reason, queue.message)


def _tell_unmanaged(step: Step, view: StageView) -> None:
    """Wait for a Workload, and doubt the queue when none comes."""
    conditions = step.draft.conditions
    step.is_queued = True
    assert view.job is not None
    age = seconds_waiting(view.job, step.now)
    if age < QUEUE_GRACE_SECONDS:
        message = f"Waiting for Kueue to take Job {view.job['metadata']['name']}."
        conditions.set(ConditionType.QUOTA_RESERVED, False, Reason.WAITING_FOR_QUOTA, message)
        step.look_again(QUEUE_GRACE_SECONDS - age)
        return
    if conditions.reason_of(ConditionType.QUOTA_RESERVED) != Reason.NOT_MANAGED_BY_KUEUE:
        step.draft.announce(Reason.NOT_MANAGED_BY_KUEUE, _UNMANAGED, warning=True)
    conditions.set(ConditionType.QUOTA_RESERVED, False, Reason.NOT_MANAGED_BY_KUEUE, _UNMANAGED)
