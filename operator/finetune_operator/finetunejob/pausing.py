"""``spec.suspend``: how pods are stopped and started again, through Kueue where it owns them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from finetune_api.names import PAUSED_ANNOTATION
from finetune_api.trainer import Stage
from finetune_api.v1alpha1.finetunejob import FineTuneJobSpec
from finetune_operator.finetunejob.actions import ActivateWorkload, PauseJob, ResumeJob
from finetune_operator.finetunejob.observed import Observed
from finetune_operator.finetunejob.render.job import is_queued
from finetune_operator.finetunejob.stages import TRAITS, StageState, StageView
from finetune_operator.finetunejob.step import Step
from finetune_operator.status.conditions import ConditionType, Reason


def stop_actions(
    observed: Observed, views: Iterable[StageView]
) -> Iterator[PauseJob | ActivateWorkload]:
    """Yield what stops the pods of these stages: through Kueue where it owns the Job."""
    for view in views:
        if view.job is None or not view.is_stoppable:
            continue
        queue = observed.queue.get(view.stage)
        if queue is None:
            yield PauseJob(
                stage=view.stage,
                name=view.job["metadata"]["name"],
                active_seconds=view.active_seconds,
                started=view.job["status"].get("startTime") or "",
            )
        elif queue.is_active:
            yield ActivateWorkload(stage=view.stage, name=queue.workload, active=False)


def suspend_or_resume(step: Step, spec: FineTuneJobSpec) -> None:
    """Follow ``spec.suspend``: stop what runs, or wake what was stopped for it."""
    if spec.suspend:
        _suspend(step)
    elif step.draft.conditions.reason_of(ConditionType.SUSPENDED) == Reason.SUSPENDED_BY_USER:
        _resume(step)


def _suspend(step: Step) -> None:
    draft = step.draft
    if draft.conditions.reason_of(ConditionType.SUSPENDED) != Reason.SUSPENDED_BY_USER:
        draft.announce("Suspended", "Suspended by spec.suspend; running pods save and stop")
    draft.conditions.set(
        ConditionType.SUSPENDED,
        True,
        Reason.SUSPENDED_BY_USER,
        "spec.suspend is true; set it to false to go on where it stopped.",
    )
    step.then += stop_actions(step.observed, step.views)
    step.then += _queue_actions(step, active=False)


def _resume(step: Step) -> None:
    draft = step.draft
    wakes: list[ResumeJob | ActivateWorkload] = list(_queue_actions(step, active=True))
    for view in step.views:
        if view.job is not None and view.state is StageState.SUSPENDED and is_paused(view):
            wakes.append(ResumeJob(stage=view.stage, name=view.job["metadata"]["name"]))
    if wakes:
        # The condition stays until the Jobs are seen to go on: a crash loses nothing.
        step.then += wakes
        return
    draft.conditions.set(ConditionType.SUSPENDED, False, Reason.RESUMED, "")
    is_training = any(
        view.stage is Stage.TRAIN and view.active_seconds and not draft.is_done(view.stage)
        for view in step.views
    )
    text = "Resumed; training goes on at the last checkpoint" if is_training else "Resumed"
    draft.announce("Resumed", text)


def _queue_actions(step: Step, *, active: bool) -> list[ActivateWorkload]:
    return [
        ActivateWorkload(stage=view.stage, name=queue.workload, active=active)
        for view in step.views
        # Resumed before Kueue has suspended it, a Job's Workload is inactive all the same.
        if (view.state is StageState.SUSPENDED or (active and view.is_stoppable))
        and (queue := step.observed.queue.get(view.stage)) is not None
        and queue.is_active is not active
    ]


def is_paused(view: StageView) -> bool:
    """Return whether the operator, not Kueue and not a person, has suspended a stage's Job."""
    return view.job is not None and PAUSED_ANNOTATION in (
        view.job["metadata"].get("annotations") or {}
    )


def tell_suspended(step: Step, spec: FineTuneJobSpec, view: StageView) -> None:
    """Say who holds a Job that is suspended."""
    kind, conditions = TRAITS[view.stage].condition, step.draft.conditions
    queue = step.observed.queue.get(view.stage)
    if spec.suspend or is_paused(view):
        conditions.set(kind, False, Reason.SUSPENDED_BY_USER, "Held by spec.suspend.")
    elif queue is not None and queue.is_evicted and not queue.was_resumed:
        conditions.set(kind, False, Reason.PREEMPTED, queue.message)
    elif queue is not None or is_queued(spec, view.stage):
        conditions.set(kind, False, Reason.QUEUED, "Waiting in the queue.")
    else:
        assert view.job is not None
        message = f"Job {view.job['metadata']['name']} was suspended, not by this operator."
        conditions.set(kind, False, "JobSuspended", message)
