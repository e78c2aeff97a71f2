"""How pods are stopped and started again, through Kueue where it owns them.

``spec.suspend`` stops a job; so do outages, limits and nodes that are lacking. Whatever did, a
stage that the operator has stopped goes on once nothing holds it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from finetune_api.names import PAUSED_ANNOTATION, QUEUE_LABEL
from finetune_api.protocol.trainer import Stage
from finetune_api.v1alpha1.finetunejob import FineTuneJobSpec
from finetune_operator.finetunejob.pods.needs import restore_rendezvous
from finetune_operator.finetunejob.pods.podbounds import (
    Violation,
    find_fixed_violations,
    find_job_violations,
)
from finetune_operator.finetunejob.render.job import is_queued
from finetune_operator.finetunejob.state.actions import ActivateWorkload, PauseJob, ResumeJob
from finetune_operator.finetunejob.state.observed import Observed
from finetune_operator.finetunejob.state.stages import TRAITS, StageState, StageView
from finetune_operator.finetunejob.state.step import Step
from finetune_operator.integrations.kueue.state import QueueState
from finetune_operator.status.conditions import (
    ConditionType,
    Reason,
    parse_timestamp,
    timestamp,
)


def stop_actions(
    observed: Observed, views: Iterable[StageView]
) -> Iterator[PauseJob | ActivateWorkload]:
    """Yield what stops the pods of these stages: through Kueue where it owns the Job."""
    for view in views:
        queue = observed.queue.get(view.stage)
        if view.job is None or not (view.is_stoppable or _is_elsewhere(view)):
            continue
        if queue is None and _is_elsewhere(view):
            continue  # a Workload comes, and wakes the job
        if queue is None:
            yield PauseJob(
                stage=view.stage,
                name=view.job["metadata"]["name"],
                active_seconds=view.active_seconds,
                started=view.job["status"].get("startTime") or "",
            )
        elif queue.is_active:
            yield ActivateWorkload(stage=view.stage, name=queue.workload, active=False)


def release_actions(
    observed: Observed, views: Sequence[StageView]
) -> list[PauseJob | ActivateWorkload]:
    """Return what stops these stages and takes those that wait out of Kueue's queues."""
    stops = stop_actions(observed, views)
    # A Job that waits in another cluster's queue is named by both.
    return list(dict.fromkeys([*stops, *_queue_actions(observed, views, active=False)]))


def _is_elsewhere(view: StageView) -> bool:
    """Return whether another cluster runs the stage: only its Workload can stop it."""
    return not view.has_ended and view.job is not None and "managedBy" in view.job["spec"]


def suspend_or_resume(step: Step, spec: FineTuneJobSpec) -> None:
    """Follow ``spec.suspend``: stop what runs, or wake what was stopped for it.

    What an administrator or Kueue itself has deactivated is nobody's to wake but theirs.
    """
    held = _held_by_others(step.observed, step.views)
    if held is None and step.draft.is_true(ConditionType.STALLED):
        # Kueue had given it up. Whoever lets it go on may do so while its user holds it too.
        step.draft.conditions.set(ConditionType.STALLED, False, Reason.REACTIVATED, "")
    if spec.suspend:
        _suspend(step, held)
    elif step.draft.conditions.reason_of(ConditionType.SUSPENDED) == Reason.SUSPENDED_BY_USER:
        _resume(step, spec, held)
    elif held is not None:
        _set_held(step, held)
    elif step.draft.conditions.reason_of(ConditionType.SUSPENDED) == Reason.DEACTIVATED:
        _set_reactivated(step)


def _held_by_others(observed: Observed, views: Iterable[StageView]) -> QueueState | None:
    """Return what Kueue says of the stage that somebody else has deactivated, if there is one."""
    for view in views:
        queue = observed.queue.get(view.stage)
        if queue is not None and queue.is_held_by_others and not view.has_ended:
            return queue
    return None


def _set_held(step: Step, held: QueueState) -> None:
    """Say who keeps the job from running, and what lets it go on: nothing else will."""
    draft, message = step.draft, _held_text(held, step.observed.namespace)
    if draft.conditions.reason_of(ConditionType.SUSPENDED) != Reason.DEACTIVATED:
        draft.announce(Reason.DEACTIVATED, message, warning=True)
    draft.conditions.set(ConditionType.SUSPENDED, True, Reason.DEACTIVATED, message)
    if held.is_given_up:
        # An administrator's hold is somebody's wish; that Kueue gave up needs somebody.
        draft.conditions.set(ConditionType.STALLED, True, held.reason, message)


def _held_text(held: QueueState, namespace: str) -> str:
    if held.is_given_up:
        who = f"Kueue has deactivated Workload {held.workload}: {held.message}."
    else:
        by = f"field manager {held.deactivated_by}" if held.deactivated_by else "somebody"
        who = f"{by[0].upper()}{by[1:]} has deactivated Workload {held.workload} (spec.active)."
    return (
        f"{who} spec.suspend does not change that. Whoever may let it go on: kubectl patch workload"
        f" {held.workload} -n {namespace} --type=merge -p"
        ' \'{"spec":{"active":true}}\''
    )


def _set_reactivated(step: Step) -> None:
    draft = step.draft
    message = "The Workload is active again; the job waits for quota."
    draft.conditions.set(ConditionType.SUSPENDED, False, Reason.REACTIVATED, "")
    draft.announce(Reason.REACTIVATED, message)


def _suspend(step: Step, held: QueueState | None) -> None:
    draft = step.draft
    if draft.conditions.reason_of(ConditionType.SUSPENDED) != Reason.SUSPENDED_BY_USER:
        draft.announce("Suspended", "Suspended by spec.suspend; running pods save and stop")
    message = "spec.suspend is true; set it to false to go on where it stopped."
    if held is not None:
        message = f"spec.suspend is true. Besides: {_held_text(held, step.observed.namespace)}"
    stops = release_actions(step.observed, step.views)
    if stops and step.observed.refused_change:
        message = f"{message} {step.observed.refused_change}"
    draft.conditions.set(ConditionType.SUSPENDED, True, Reason.SUSPENDED_BY_USER, message)
    step.then += stops


def find_disallowed(step: Step, spec: FineTuneJobSpec, view: StageView) -> list[Violation]:
    """Return why a Job that is suspended may not go on.

    Settings that change later do not reach back to stages that have had pods: those are held to
    what no configuration allows.
    """
    if view.job is None or view.state is not StageState.SUSPENDED:
        return []
    has_begun = view.job["status"].get("startTime") or view.pods or view.past_seconds
    if has_begun or (step.draft.stage(view.stage) or {}).get("firstRunTime"):
        return list(find_fixed_violations(spec.pod_template)) if spec.pod_template else []
    return list(find_job_violations(spec, step.config, view.stage))


def _resume(step: Step, spec: FineTuneJobSpec, held: QueueState | None) -> None:
    draft = step.draft
    # What a limit has stopped stays so, whoever suspends the job and resumes it meanwhile.
    views = [
        view
        for view in step.views
        if "cut" not in (draft.stage(view.stage) or {}) and not find_disallowed(step, spec, view)
    ]
    queued = _queue_actions(step.observed, views, active=True)
    wakes: list[ResumeJob | ActivateWorkload] = list(queued)
    stopping: list[str] = []
    for view in views:
        if (
            view.job is None
            or view.state is not StageState.SUSPENDED
            or not is_paused(step.observed, view)
        ):
            continue
        name = view.job["metadata"]["name"]
        if view.is_stopped:
            wakes.append(ResumeJob(stage=view.stage, name=name))
        else:
            # Resumed before that, its pods go on and its startTime stays that of the run whose
            # time is noted already: nothing would count the time of what runs.
            stopping.append(name)
    if wakes:
        # The condition stays until the Jobs are seen to go on: a crash loses nothing.
        for wake in wakes:
            restore_rendezvous(step, spec, wake.stage)
        step.then += wakes
        return
    if stopping:
        message = _STOPPING.format(jobs=", ".join(stopping))
        draft.conditions.set(ConditionType.SUSPENDED, True, Reason.SUSPENDED_BY_USER, message)
        return
    if held is not None:
        _set_held(step, held)
        return
    draft.conditions.set(ConditionType.SUSPENDED, False, Reason.RESUMED, "")
    is_training = any(
        view.stage is Stage.TRAIN and view.active_seconds and not draft.is_done(view.stage)
        for view in step.views
    )
    text = "Resumed; training goes on at the last checkpoint" if is_training else "Resumed"
    draft.announce("Resumed", text)


def _queue_actions(
    observed: Observed, views: Iterable[StageView], *, active: bool
) -> list[ActivateWorkload]:
    return [
        ActivateWorkload(stage=view.stage, name=queue.workload, active=active)
        for view in views
        # Resumed before Kueue has suspended it, a Job's Workload is inactive all the same.
        if (view.state is StageState.SUSPENDED or (active and view.is_stoppable))
        and (queue := observed.queue.get(view.stage)) is not None
        and (queue.is_paused_by_us if active else queue.is_active)
    ]


_STOPPING = (
    "spec.suspend is false again. Job {jobs} is being stopped, and goes on once the Job controller"
    " says that it is (its condition Suspended). If this lasts, kube-controller-manager does not"
    " run: ask who runs the cluster."
)
STARTING_SECONDS = 60.0
"""For so long Kueue may take to start a Job that it has admitted."""
_NOT_STARTED = (
    "Kueue admitted Workload {workload} at {since}, and has not started its Job {job}:"
    " is Kueue's controller running, and what does its log say of the Job?"
)
_UNWATCHED = (
    "Job {job} waits in LocalQueue {queue}, where Kueue has put it of itself. Why it waits is not"
    " known here: the operator does not watch Kueue (kueue.enabled in its chart); see kubectl get"
    " workloads."
)


def queue_label(view: StageView) -> str:
    """Return the LocalQueue that a stage's Job is labelled with, by whomever; empty without one."""
    labels = view.job["metadata"]["labels"] if view.job is not None else {}
    return str(labels.get(QUEUE_LABEL) or "")


def is_kueues(observed: Observed, view: StageView) -> bool:
    """Return whether a stage's Job belongs to Kueue, which alone starts its pods and stops them.

    The Job tells it, not the spec: a LocalQueue ``default`` takes the Jobs that name no queue.
    """
    return view.stage in observed.queue or bool(queue_label(view))


def is_paused(observed: Observed, view: StageView) -> bool:
    """Return whether the operator, not Kueue and not a person, has suspended a stage's Job."""
    if view.job is None or view.stage in observed.queue:
        return False  # what was noted on a Job before Kueue had it says nothing any more
    return PAUSED_ANNOTATION in (view.job["metadata"].get("annotations") or {})


def is_stopped_by_us(observed: Observed, view: StageView) -> bool:
    """Return whether the operator has stopped a stage and may let it go on.

    A Job of Kueue's is started by Kueue alone: there the Workload tells it.
    """
    queue = observed.queue.get(view.stage)
    if queue is not None:
        return queue.is_paused_by_us and not view.has_ended
    is_suspended = view.state is StageState.SUSPENDED
    return is_suspended and is_paused(observed, view) and not is_kueues(observed, view)


def wake(step: Step, spec: FineTuneJobSpec, view: StageView) -> bool:
    """Let a stage go on that the operator has stopped and nothing holds; return whether it does.

    What the Job or its Workload says decides: the record of why it was stopped may be lost, or be
    over, as a limit is that somebody has raised.
    """
    if spec.suspend or view.job is None or not is_stopped_by_us(step.observed, view):
        return False
    queue = step.observed.queue.get(view.stage)
    action: ResumeJob | ActivateWorkload | None = None
    if queue is not None:
        action = ActivateWorkload(stage=view.stage, name=queue.workload, active=True)
    elif view.is_stopped:  # resumed earlier, its pods would go on
        action = ResumeJob(stage=view.stage, name=view.job["metadata"]["name"])
    if action is not None and action not in step.then:
        restore_rendezvous(step, spec, view.stage)
        step.then.append(action)
    traits = TRAITS[view.stage]
    text = traits.under_way.format(job=view.job["metadata"]["name"])
    step.draft.conditions.set(traits.condition, False, traits.under_way_reason, text)
    return True


def set_suspended(step: Step, spec: FineTuneJobSpec, view: StageView) -> None:
    """Say who holds a Job that is suspended."""
    kind, conditions = TRAITS[view.stage].condition, step.draft.conditions
    queue = step.observed.queue.get(view.stage)
    if spec.suspend:
        conditions.set(kind, False, Reason.SUSPENDED_BY_USER, "Held by spec.suspend.")
    elif queue is not None and queue.is_held_by_others:
        conditions.set(kind, False, Reason.DEACTIVATED, queue.message)
    elif queue is not None and queue.is_evicted and not queue.was_resumed:
        conditions.set(kind, False, queue.reason, queue.message)
    elif queue is not None and queue.is_admitted:
        _set_admitted(step, view, queue)
    elif queue is not None or is_queued(spec, view.stage):
        conditions.set(kind, False, Reason.QUEUED, "Waiting in the queue.")
    elif view.job is not None and queue_label(view):
        message = _UNWATCHED.format(job=view.job["metadata"]["name"], queue=queue_label(view))
        conditions.set(kind, False, Reason.QUEUED, message)
        step.is_queued = True
    else:
        assert view.job is not None
        message = f"Job {view.job['metadata']['name']} was suspended, not by this operator."
        conditions.set(kind, False, "JobSuspended", message)


def _set_admitted(step: Step, view: StageView, queue: QueueState) -> None:
    """Say of a Job that Kueue is about to start what is said once it has: one write for both."""
    assert view.job is not None
    traits, conditions = TRAITS[view.stage], step.draft.conditions
    job = view.job["metadata"]["name"]
    # Quota may have been reserved long before, for checks that had to pass.
    begun = parse_timestamp(queue.admitted_at) or step.now
    left = STARTING_SECONDS - (step.now - begun).total_seconds()
    if left > 0:
        step.look_again(left)
        text = traits.under_way.format(job=job)
        conditions.set(traits.condition, False, traits.under_way_reason, text)
        return
    message = _NOT_STARTED.format(job=job, workload=queue.workload, since=timestamp(begun))
    conditions.set(traits.condition, False, Reason.QUEUED, message)
