"""What Kueue says of a stage, in the job's own conditions; and what the job tells Kueue."""

from __future__ import annotations

from typing import Any

from finetune_api.names import PRIORITY_LABEL, QUEUE_LABEL
from finetune_api.protocol.trainer import FailureClass
from finetune_api.v1alpha1.finetunejob import FineTuneJobSpec
from finetune_operator.finetunejob.lifecycle.accounting import record_eviction
from finetune_operator.finetunejob.pods.pausing import queue_label
from finetune_operator.finetunejob.publication.endings import fail_stage
from finetune_operator.finetunejob.render.job import is_queued
from finetune_operator.finetunejob.state.actions import RelabelJob
from finetune_operator.finetunejob.state.failure import Cause
from finetune_operator.finetunejob.state.observed import Observed
from finetune_operator.finetunejob.state.stages import StageState, StageView
from finetune_operator.finetunejob.state.step import Step
from finetune_operator.finetunejob.state.trimmed import seconds_since_created
from finetune_operator.integrations.kueue.state import QueueState
from finetune_operator.status.conditions import ConditionType, Reason, timestamp
from finetune_operator.status.draft import Announce

QUEUE_GRACE_SECONDS = 60.0
"""How long a queued Job may be without a Workload before its queue is in doubt."""
QUEUE_WARNING_SECONDS = 300.0
"""How long before a Warning says so: behind thousands of others Kueue comes late, not never."""

_QUOTA = ConditionType.QUOTA_RESERVED
_LASTS = " It has been so for five minutes."

_ELSEWHERE = (
    "LocalQueue {queue} hands its Jobs to other clusters (MultiKueue): the Job is managed by"
    " {manager}. Only the Job would be copied there, and its pods would miss the ConfigMap, the"
    " Secrets and the progress endpoint of this cluster. Use a LocalQueue whose ClusterQueue has no"
    " MultiKueue check, or create the FineTuneJob on the other cluster."
)


def set_quota(step: Step, spec: FineTuneJobSpec, view: StageView) -> None:
    """Say whether a stage has its quota, and why not; end the job if it can never run."""
    assert view.job is not None
    if "managedBy" in view.job["spec"]:
        message = _ELSEWHERE.format(queue=queue_label(view), manager=view.job["spec"]["managedBy"])
        _fail(step, view, Reason.MULTIKUEUE, message)
        return
    queue = step.observed.queue.get(view.stage)
    if queue is not None and queue.finished:
        message = f"Kueue ended Workload {queue.workload} without running it: {queue.message}"
        _fail(step, view, queue.finished, message)
        return
    late = _carry_edits(step, spec, view, queue)
    if queue is not None:
        _mirror(step, spec, view, queue, late)
    elif view.state is StageState.SUSPENDED and (
        is_queued(spec, view.stage) or (queue_label(view) and step.observed.has_kueue)
    ):
        _set_unmanaged(step, view, late)


def is_being_evicted(observed: Observed, view: StageView) -> bool:
    """Return whether Kueue takes the quota back while the pods still save."""
    queue = observed.queue.get(view.stage)
    return queue is not None and queue.is_evicted and not queue.was_resumed


def _fail(step: Step, view: StageView, reason: str, message: str) -> None:
    cause = Cause(
        failure_class=FailureClass.USER_ERROR,
        reason=reason,
        message=message,
        time=timestamp(step.now),
    )
    fail_stage(step, view, cause)


# ---- what Kueue says ---------------------------------------------------------------------------


def _mirror(
    step: Step, spec: FineTuneJobSpec, view: StageView, queue: QueueState, late: str
) -> None:
    draft = step.draft
    step.is_queued = not queue.is_admitted
    had_quota = draft.is_true(ConditionType.QUOTA_RESERVED)
    if had_quota and queue.is_evicted and queue.is_active and not spec.suspend:
        text = f"{view.stage.value}: {queue.reason}: {queue.message}"
        draft.announce(queue.reason, text, warning=True)
        given_up = record_eviction(step, view, queue)
        if given_up is not None:
            fail_stage(step, view, given_up)
            return
    if queue.is_dropped and draft.conditions.reason_of(_QUOTA) != queue.reason:
        draft.announce(queue.reason, f"{view.stage.value}: {queue.message}", warning=True)
    message = f"{queue.message} {late}".strip()
    draft.conditions.set(ConditionType.QUOTA_RESERVED, queue.has_quota, queue.reason, message)
    draft.record_evictions(view.stage, queue.num_evictions)
    draft.put("queue", _section(queue))


def _section(queue: QueueState) -> dict[str, Any]:
    """Render ``status.queue``."""
    place = None if queue.has_quota else queue.place
    section: dict[str, Any] = {
        "localQueue": queue.queue,
        "clusterQueue": queue.cluster_queue if queue.has_quota else "",
        "workload": queue.workload,
        "position": place.in_cluster_queue if place else None,
        "positionInLocalQueue": place.in_local_queue if place else None,
    }
    return {key: value for key, value in section.items() if value}


def _set_unmanaged(step: Step, view: StageView, late: str) -> None:
    """Wait for a Workload, and doubt the queue when none comes."""
    conditions = step.draft.conditions
    step.is_queued = True
    assert view.job is not None
    age = seconds_since_created(view.job, step.now)
    if age < QUEUE_GRACE_SECONDS:
        message = f"Waiting for Kueue to take Job {view.job['metadata']['name']}. {late}".strip()
        conditions.set(ConditionType.QUOTA_RESERVED, False, Reason.WAITING_FOR_QUOTA, message)
        step.look_again(QUEUE_GRACE_SECONDS - age)
        return
    lasts = age >= QUEUE_WARNING_SECONDS
    message = _unmanaged_text(view) + (_LASTS if lasts else "")
    before = conditions.get(ConditionType.QUOTA_RESERVED) or {}
    if lasts and not (before.get("message") or "").startswith(message):
        step.draft.announce(Reason.NOT_MANAGED_BY_KUEUE, message, warning=True)
    if not lasts:
        step.look_again(QUEUE_WARNING_SECONDS - age)
    message = f"{message} {late}".strip()
    conditions.set(ConditionType.QUOTA_RESERVED, False, Reason.NOT_MANAGED_BY_KUEUE, message)


def _unmanaged_text(view: StageView) -> str:
    assert view.job is not None
    priority = view.job["metadata"]["labels"].get(PRIORITY_LABEL)
    of_priority = f", and does WorkloadPriorityClass {priority} exist" if priority else ""
    return (
        "Kueue has made no Workload for the Job: is Kueue running, is the namespace managed by it"
        f"{of_priority}? The Job stays suspended."
    )


# ---- what the job tells Kueue ------------------------------------------------------------------


def _carry_edits(
    step: Step, spec: FineTuneJobSpec, view: StageView, queue: QueueState | None
) -> str:
    """Carry edits of queue and priority to the Job; return what cannot be carried now, in words.

    Kueue lets go of a queue only while the Job is suspended and holds no quota. A priority may
    change at any time, but a running Job gets none if it had none.
    """
    assert view.job is not None
    is_loose = view.state is StageState.SUSPENDED and not (queue is not None and queue.has_quota)
    labels: dict[str, str] = {}
    late = []
    was, wanted = queue_label(view), spec.queue_name
    if wanted and was and wanted != was and is_queued(spec, view.stage):
        if is_loose:
            labels[QUEUE_LABEL] = wanted
        else:
            late.append(
                f"spec.queueName names {wanted} by now; this stage stays in {was} while it holds"
                " quota there."
            )
    had, wants = view.job["metadata"]["labels"].get(PRIORITY_LABEL), spec.priority_class_name
    if wants and wants != had and was:
        if had or view.state is StageState.SUSPENDED:
            labels[PRIORITY_LABEL] = wants
        else:
            late.append(f"A running Job gets no priority: {wants} counts once it waits again.")
    if labels:
        name = view.job["metadata"]["name"]
        text = f"{view.stage.value}: {_edit_text(was, had, labels)}"
        event = Announce(kind="Normal", reason="QueueChanged", message=text)
        step.then.append(RelabelJob(stage=view.stage, name=name, labels=labels, event=event))
        if step.observed.refused_change:
            late.append(step.observed.refused_change)
    return " ".join(late)


def _edit_text(queue: str, priority: str | None, labels: dict[str, str]) -> str:
    told = []
    if QUEUE_LABEL in labels:
        told.append(f"moved from queue {queue} to {labels[QUEUE_LABEL]}")
    if PRIORITY_LABEL in labels:
        told.append(f"priority class {labels[PRIORITY_LABEL]} instead of {priority or 'none'}")
    return ", ".join(told)
