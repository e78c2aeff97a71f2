"""The end of a stage and of a job: store results, set conditions, stop pods."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from finetune_api.protocol.evaluation_result import EvaluateResult
from finetune_api.protocol.stage_results import (
    PrepareResult,
    TakenOver,
    TrackingResult,
    TrainResult,
)
from finetune_api.protocol.trainer import FailureClass, Stage
from finetune_api.v1alpha1.finetunejob import FineTuneJobSpec
from finetune_operator.finetunejob.pods.pausing import stop_actions
from finetune_operator.finetunejob.pods.silence import has_heartbeat, silence_text
from finetune_operator.finetunejob.state import results
from finetune_operator.finetunejob.state.draft import JobDraft
from finetune_operator.finetunejob.state.failure import Cause, latest_cause
from finetune_operator.finetunejob.state.stages import TRAITS, StageView
from finetune_operator.finetunejob.state.step import Step
from finetune_operator.status.conditions import (
    MESSAGE_CHARACTERS,
    ConditionType,
    Reason,
    shorten,
    timestamp,
)

Object = dict[str, Any]

# ---- stages ------------------------------------------------------------------------------------


def store_late_result(step: Step, view: StageView) -> None:
    """Store the result of a stage that is recorded as over, if it is known by now."""
    late = step.draft.conditions.status_of(TRAITS[view.stage].condition) == "Unknown"
    if late and view.result is not None:
        succeed(step, view)
    else:
        _store_result(step, view)


def succeed(step: Step, view: StageView) -> None:
    """Set the condition of a stage that succeeded, and store its result."""
    draft, stage = step.draft, view.stage
    _store_result(step, view)
    kind = TRAITS[stage].condition
    result = view.result
    if result is None:
        reason, lost = lack_of_result(view)
        message = f"{lost} It is in object storage."
        draft.conditions.set(kind, "Unknown", reason, message)
        draft.announce(reason, message, warning=True)
    elif isinstance(result, PrepareResult):
        rows = result.rows
        message = (
            f"{rows.train} training, {rows.validation} validation and {rows.test} held-out"
            f" rows; {result.num_invalid_rows} left out, {result.num_truncated_rows} truncated."
        )
        questions = result.questions
        if questions is not None:
            message = f"{message} {questions.message}."
        if result.taken_over is not None:
            text = _taken_over_text(result.taken_over)
            draft.conditions.set(ConditionType.TRAINING, False, Reason.TAKEN_OVER, text)
            draft.announce(Reason.TAKEN_OVER, text)
        draft.conditions.set(kind, True, Reason.PREPARED, message)
        if questions is not None and not questions.enough:
            draft.announce("DatasetReady", message, warning=True)
    elif isinstance(result, TrainResult):
        message = f"{results.training_text(result)}{results.score_text(result)}"
        url = step.config.progress_url
        is_silent = not has_heartbeat(step.observed.job)
        if url and is_silent:
            message = f"{message} {silence_text(url)}"
        draft.conditions.set(kind, False, Reason.SUCCEEDED, message)
    else:
        # Stage publish returns the evaluation's result too, which it reads from storage.
        message = results.scores_text(result) or "Evaluated."
        draft.conditions.set(ConditionType.EVALUATED, True, Reason.EVALUATED, message)
        _set_goal_met(step, result)


def _taken_over_text(run: TakenOver) -> str:
    return (
        f"Trains nothing: an earlier FineTuneJob of this name, UID {run.uid}, had the same spec,"
        " data and base model, and its run is complete. Its adapter and its evaluation stand for"
        " this job. To train again on purpose, give the job another name or another seed"
        " (spec.hyperparameters.seed)."
    )


def lack_of_result(view: StageView) -> tuple[Reason, str]:
    """Return why the result of a stage that succeeded is not known: reason and message."""
    begun = f"Stage {view.stage.value} succeeded; its result"
    if not view.problem:
        return Reason.RESULT_NOT_REPORTED, f"{begun} was lost with its pod."
    return Reason.RESULT_REFUSED, (
        f"{begun} was refused ({view.problem}): is spec.trainer.image of the operator's version?"
    )


def _store_result(step: Step, view: StageView) -> None:
    """Store the result of an ended stage in the status, if it is known."""
    draft, result = step.draft, view.result
    if result is None:
        return
    if not isinstance(result, PrepareResult):
        _store_tracking(step, result.tracking)
    for name, section in results.sections_of(result, draft.get("artifact") or {}).items():
        draft.put(name, section)


def _store_tracking(step: Step, told: TrackingResult | None) -> None:
    """Store the state of the trackers in the status; emit an Event when they begin to fail."""
    if told is None:
        return
    draft = step.draft
    before = draft.get("tracking") or {}
    draft.put("tracking", results.tracking_section(told, known=before.get("uris", [])))
    if told.problem and not before.get("message"):
        message = f"{told.problem}. The job does not need its trackers and goes on."
        draft.announce("TrackingFailed", message, warning=True)


def cause_of_end(view: StageView, *, memory: str, now: datetime) -> Cause:
    """Explain why the Job controller gave a stage up.

    Args:
        view: The stage.
        memory: Memory limit of its pods.
        now: The present.
    """
    cause = latest_cause(view.pods, memory=memory)
    if cause is not None:
        return cause
    ending = view.failure_message or "The Job failed"
    message = f"{ending}; its pods are gone, so no cause is known."
    return Cause(
        failure_class=FailureClass.INTERNAL,
        reason=view.failure_reason or "JobFailed",
        message=message,
        time=timestamp(view.ended_at or now),
    )


# ---- jobs --------------------------------------------------------------------------------------


def conclude(step: Step, spec: FineTuneJobSpec) -> None:
    """End a job whose stages are all over. Without a verdict nothing is met or published."""
    draft = step.draft
    result = step.result(EvaluateResult)
    if result is None or not results.is_verdict(result, spec):
        _end_without_verdict(step, spec)
        return
    _set_goal_met(step, result)
    if result.is_missed:
        _miss(step, result)
        return
    message = f"Version {result.version}: {results.scores_text(result)}{_warnings_text(result)}"
    message += _newer_text(result)
    draft.conditions.set(ConditionType.PUBLISHED, True, Reason.PUBLISHED, message)
    draft.conditions.set(ConditionType.COMPLETE, True, Reason.SUCCEEDED, message)
    draft.announce("Published", message)
    draft.put("completionTime", timestamp(step.now))
    close_progress(step)


def _end_without_verdict(step: Step, spec: FineTuneJobSpec) -> None:
    """End a job without a verdict, whose last stage another version recorded as over."""
    reason = Reason.RESULT_NOT_REPORTED
    message = (
        "The evaluation is over and its result is not known, so the job is not called published."
        " The report is in object storage, and so is the version if the goal was met."
    )
    kinds = [ConditionType.GOAL_MET] if spec.goal is not None else []
    for kind in (*kinds, ConditionType.PUBLISHED):
        step.draft.conditions.set(kind, "Unknown", reason, message)
    cause = Cause(
        failure_class=FailureClass.INTERNAL,
        reason=reason,
        message=message,
        time=timestamp(step.now),
    )
    step.draft.note_failure(cause, _last_begun(step.views, step.draft).stage)
    fail(step, reason, message)


def _set_goal_met(step: Step, result: EvaluateResult) -> None:
    conditions = step.draft.conditions
    # goal_met may be False without a goal: too few held-out prompts.
    if result.goal_met is False:
        message = result.goal_message or f"The goal was missed: {results.scores_text(result)}"
        conditions.set(ConditionType.GOAL_MET, False, Reason.GOAL_NOT_MET, message)
    elif result.goal_met:
        conditions.set(ConditionType.GOAL_MET, True, Reason.GOAL_REACHED, result.goal_message)


def _warnings_text(result: EvaluateResult) -> str:
    missed = [gate.name for gate in result.gates if not gate.met and gate.severity == "Warn"]
    return f"; missed, only a warning: gate {', '.join(missed)}" if missed else ""


def _newer_text(result: EvaluateResult) -> str:
    published = result.published
    if published is None or published.newer is None:
        return ""
    before = "none" if published.version is None else f"version {published.version}"
    return (
        f"; version {published.newer} was published meanwhile, after the comparison with {before}"
    )


def _miss(step: Step, result: EvaluateResult) -> None:
    """End a job whose candidate missed its goal or a gate: it is kept, unpublished."""
    draft = step.draft
    is_goal = result.goal_met is False
    reason = Reason.GOAL_NOT_MET if is_goal else Reason.GATES_NOT_MET
    message = result.missed_words or f"The goal was missed: {results.scores_text(result)}"
    draft.conditions.set(ConditionType.PUBLISHED, False, reason, message)
    cause = Cause(
        failure_class=FailureClass(reason.value),
        reason=reason,
        message=message,
        time=timestamp(step.now),
    )
    (stage,) = (view.stage for view in step.views if view.result is result)
    draft.note_failure(cause, stage)
    fail(step, reason, message, event=reason)
    close_progress(step)


def close_progress(step: Step) -> None:
    """Show the last stage as complete: no push follows, and its last push may be lost."""
    begun = _last_begun(step.views, step.draft)
    if begun.job is None and not step.draft.last_run(begun.stage):
        return
    progress: Object = {"stage": begun.stage.value, "percent": 100}
    trained = step.result(TrainResult)
    metrics: list[Object] = []
    if trained is not None and trained.step:
        progress |= {"step": trained.step, "totalSteps": trained.step}
        metrics = results.metrics_section(trained)
    step.draft.put_final_progress(progress, metrics)


def _last_begun(views: Sequence[StageView], draft: JobDraft) -> StageView:
    """Return the last stage that has, or had, a Job."""
    begun = [view for view in views if view.job or draft.last_run(view.stage)]
    return begun[-1] if begun else views[0]


def fail_stage(step: Step, view: StageView, cause: Cause) -> None:
    """End the job because a stage failed."""
    step.draft.put("lastFailure", cause.to_wire(view.stage))
    suffix = ""
    if view.failure_reason == "BackoffLimitExceeded":
        suffix = " All retries of backoffLimit are used up."
    where = f" (pod {cause.pod} on {cause.node})" if cause.pod and cause.node else ""
    message = f"{view.stage.value}: {cause.reason}{where}: {cause.message}{suffix}"
    reason = cause.failure_class.value
    if view.stage is Stage.PUBLISH:
        set_unpublished(step, Reason.PUBLISHING_FAILED, message)
    else:
        step.draft.conditions.set(TRAITS[view.stage].condition, False, reason, message)
    fail(step, reason, message)


def set_unpublished(step: Step, reason: str, message: str) -> None:
    """Say why a publication failed, and how to try it again where the evaluation is known."""
    draft, observed = step.draft, step.observed
    if (draft.get("evaluation") or {}).get("digest"):
        message = _with_way_on(
            message,
            f" To publish what was evaluated: finetune publish {observed.name} -n"
            f" {observed.namespace} --override --reason WHY",
        )
    draft.conditions.set(ConditionType.PUBLISHED, False, reason, message)


def fail(step: Step, reason: str, message: str, *, event: str = "Failed") -> None:
    """End the job as failed, for good, and stop what still runs."""
    draft, observed = step.draft, step.observed
    way_on = f" To begin again: finetune retry {observed.name} -n {observed.namespace}"
    text = _with_way_on(message, way_on)
    draft.conditions.set(ConditionType.STALLED, True, reason, text)
    draft.conditions.set(ConditionType.FAILED, True, reason, text)
    draft.put("completionTime", timestamp(step.now))
    draft.close_runs(step.views)
    draft.announce(event, text, warning=True)
    step.then = list(stop_actions(step.observed, step.views))


def _with_way_on(message: str, way_on: str) -> str:
    """Return a message that ends with the remedy; a long message is shortened before it."""
    words = shorten(message, MESSAGE_CHARACTERS - len(way_on) - 1)
    return words + ("" if words.endswith((".", "!", "?")) else ".") + way_on
