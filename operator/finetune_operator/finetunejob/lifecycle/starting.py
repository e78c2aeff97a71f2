"""The Job of a stage that has none yet: created, held back, or found to have been deleted."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from finetune_api.names import ACTIVE_SECONDS_ANNOTATION, child_job_name
from finetune_api.protocol.trainer import FailureClass, Stage
from finetune_api.v1alpha1.finetunejob import FineTuneJobSpec
from finetune_operator.finetunejob.holds.approval import (
    follow_decisions,
    follow_publication,
    pinned_digest,
)
from finetune_operator.finetunejob.holds.holds import Hold, hold, of_settings
from finetune_operator.finetunejob.lifecycle.accounting import record_deletion
from finetune_operator.finetunejob.pods.image import settled_image
from finetune_operator.finetunejob.pods.needs import job_digest_of, needs_of
from finetune_operator.finetunejob.pods.outages import LONGEST_SECONDS
from finetune_operator.finetunejob.pods.pausing import find_disallowed, release_actions
from finetune_operator.finetunejob.publication import publishing
from finetune_operator.finetunejob.publication.endings import fail_stage, lack_of_result
from finetune_operator.finetunejob.render.job import render_job
from finetune_operator.finetunejob.state.actions import ConfirmMissing, CreateStage
from finetune_operator.finetunejob.state.failure import Cause
from finetune_operator.finetunejob.state.gpu_time import seconds_with_unplaced
from finetune_operator.finetunejob.state.stages import TRAITS, StageView
from finetune_operator.finetunejob.state.step import Step
from finetune_operator.status.conditions import (
    ConditionType,
    Reason,
    find_condition,
    is_true,
    parse_timestamp,
    timestamp,
)

Object = dict[str, Any]

MAX_RUNS = 3
"""How often a stage runs whose result is lost each time."""


def start(
    step: Step,
    spec: FineTuneJobSpec,
    view: StageView,
    *,
    run: int | None = None,
    past_seconds: int = 0,
    run_again: str | None = None,
) -> None:
    """Create the Job of a stage, unless something holds it back.

    Args:
        step: The plan so far.
        spec: The job's spec.
        view: The stage.
        run: Which run of the stage; None for the next.
        past_seconds: Running time of the same run that its Job is told of.
        run_again: Why it runs once more, for its condition; what holds it back is said there first.
    """
    follow_decisions(step, spec, view.stage)
    follow_publication(step, spec, view)
    if step.draft.is_true(ConditionType.FAILED):
        return
    held = hold(step, spec, view.stage)
    kind = TRAITS[view.stage].condition
    if run_again is not None and (held is None or held.told_in != kind):
        step.draft.conditions.set(kind, "Unknown", lack_of_result(view)[0], run_again)
    if held is None:
        run = view.run + 1 if run is None else run
        step.first.append(create_stage(step, spec, view.stage, run=run, past_seconds=past_seconds))
    else:
        _wait(step, view, held)


def is_kept_waiting(step: Step, spec: FineTuneJobSpec, view: StageView) -> bool:
    """Keep a Job from its first pods that settings of today do not allow; return whether it is.

    It leaves Kueue's queue, and others have its place.
    """
    violations = find_disallowed(step, spec, view)
    if not violations or spec.suspend:
        return False
    _wait(step, view, of_settings(view.stage, violations))
    step.then += release_actions(step.observed, [view])
    return True


def start_again(step: Step, spec: FineTuneJobSpec, view: StageView) -> None:
    """Run a stage once more that succeeded and whose result was lost, within bounds.

    Nothing may be called met or published without it. A stage that finds what an earlier run has
    stored ends at once, and says so.
    """
    if view.run < MAX_RUNS:
        told = f"{lack_of_result(view)[1]} It runs again and takes what it has stored."
        start(step, spec, view, run_again=told)
        return
    reason, _ = lack_of_result(view)
    message = (
        f"Stage {view.stage.value} succeeded {view.run} times, and no result arrived: its pods are"
        " deleted before the operator reads their termination message, or spec.trainer.image is not"
        " of this version. What it found lies in object storage."
    )
    if view.problem:
        message = (
            f"Stage {view.stage.value} succeeded {view.run} times, and its result was refused each"
            f" time ({view.problem}): spec.trainer.image is not of the operator's version, or"
            " reports what is not its own. What it found lies in object storage."
        )
    cause = Cause(
        failure_class=FailureClass.INTERNAL,
        reason=reason,
        message=message,
        time=timestamp(step.now),
    )
    fail_stage(step, view, cause)


def run_again_text(stage: Stage) -> str:
    """Return what is said of a stage that runs again, whatever became of its last result."""
    return (
        f"Stage {stage.value} succeeded, and its result is not known. It runs again and takes what"
        " it has stored."
    )


def miss(step: Step, spec: FineTuneJobSpec, view: StageView) -> None:
    """Make a Job again that was created and is gone, once its pods have had time to end.

    Whoever deletes it again and again without a step in between ends the job, and so does Kueue,
    which may delete what it has given up.
    """
    run = step.draft.last_run(view.stage)
    name = child_job_name(step.observed.name, view.stage, run)
    if view.stage not in step.observed.missing:
        step.first.append(ConfirmMissing(stage=view.stage, name=name))
        return
    entry = step.draft.stage(view.stage)
    assert entry is not None
    gone = parse_timestamp(entry.get("deletedTime"))
    if gone is None:
        gone = step.now
        given_up = _note_deletion(step, view, name)
        if given_up is not None:
            fail_stage(step, view, given_up)
            return
    deletions = int((entry.get("fruitless") or {}).get("deletions") or 1)
    pause = min(spec.grace_seconds * 2.0 ** (deletions - 1), LONGEST_SECONDS)
    left = pause - (step.now - gone).total_seconds()
    if left > 0:
        step.look_again(left)
        return
    past_seconds = seconds_with_unplaced(entry, step.now)
    start(step, spec, view, run=run, past_seconds=past_seconds)


def _note_deletion(step: Step, view: StageView, name: str) -> Cause | None:
    """Record that a Job is gone; return why the stage is given up, if it is."""
    entry = step.draft.stage(view.stage)
    assert entry is not None
    cause = Cause(
        failure_class=FailureClass.INTERNAL,
        reason=Reason.JOB_DELETED.value,
        message=f"Job {name} was deleted and had not finished.",
        time=timestamp(step.now),
    )
    if _was_given_up(step.observed.job):
        words = f"Kueue had deactivated its Workload, and Job {name} is gone: it is not run again."
        return replace(cause, message=words)
    given_up = record_deletion(step, view, cause)
    if given_up is not None:
        return given_up
    entry["deletedTime"] = timestamp(step.now)
    message = (
        f"{cause.message} It is made again once its pods have had time to end, and goes on with"
        " what is stored."
    )
    step.draft.note_failure(cause, view.stage)
    step.draft.announce(Reason.JOB_DELETED, f"{view.stage.value}: {message}", warning=True)
    step.draft.conditions.set(TRAITS[view.stage].condition, False, Reason.JOB_DELETED, message)
    return None


def _was_given_up(job: Object) -> bool:
    """Return whether Kueue had given up the stage by the last status: it may delete such Jobs."""
    stored = (job.get("status") or {}).get("conditions")
    suspended = find_condition(stored, ConditionType.SUSPENDED) or {}
    return suspended.get("reason") == Reason.DEACTIVATED and is_true(stored, ConditionType.STALLED)


def _wait(step: Step, view: StageView, held: Hold) -> None:
    """Say why a stage does not start, and end the job if it never can."""
    if held.is_final:
        cause = Cause(
            failure_class=FailureClass.USER_ERROR,
            reason=held.reason,
            message=held.message,
            time=timestamp(step.now),
        )
        fail_stage(step, view, cause)
        return
    conditions = step.draft.conditions
    if held.told_in is not None:
        if held.is_announced and conditions.reason_of(held.told_in) != held.reason:
            text = f"{held.subject}{held.message}"
            step.draft.announce(held.reason, text, warning=not held.is_expected)
        conditions.set(held.told_in, False, held.reason, held.message)
    step.is_queued = held.is_queued
    step.held_as, step.held_in = held.phase, held.shown_in
    if held.recheck_seconds is not None:
        step.look_again(held.recheck_seconds)


def create_stage(
    step: Step, spec: FineTuneJobSpec, stage: Stage, *, run: int, past_seconds: int = 0
) -> CreateStage:
    """Return what creates the Job of a stage."""
    observed, config = step.observed, step.config
    needs = needs_of(step, spec, stage)
    job_digest = job_digest_of(step, stage, run, needs)
    job = render_job(
        spec,
        stage,
        observed.owner,
        config,
        image=settled_image(step.draft),
        run=run,
        job_digest=job_digest,
        data_digest=pinned_digest(step, spec, stage),
        arguments=publishing.decision_arguments(
            stage, step.draft.get(publishing.SECTION), step.draft.get("evaluation")
        ),
        has_kueue=observed.has_kueue,
        traffic=step.traffic,
    )
    if past_seconds:
        job["metadata"]["annotations"] = {ACTIVE_SECONDS_ANNOTATION: str(past_seconds)}
    return CreateStage(stage=stage, needs=needs, job=job, job_digest=job_digest)
