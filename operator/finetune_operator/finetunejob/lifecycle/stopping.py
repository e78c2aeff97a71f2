"""Stop a job that may be publishing, for a prune, a deadline or a budget.

The evaluation's pod publishes at its end, so a stop may come after the version's manifest is
written and before the operator knows the result. Storage decides whether the job is published. The
stage is therefore stopped first, and the job ends once the pods' termination message had time to
arrive. The Job controller calls a Job suspended before its pods have ended, so they get their grace
period. Job ``publish`` is never stopped: it takes seconds.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from finetune_api.protocol.evaluation_result import EvaluateResult
from finetune_api.protocol.publication import Publication, publication_of
from finetune_api.protocol.trainer import ExitCode, Stage
from finetune_api.v1alpha1.finetunejob import FineTuneJobSpec
from finetune_operator.finetunejob.pods.pausing import is_stopped_by_us, release_actions
from finetune_operator.finetunejob.publication.endings import conclude, fail_stage, succeed
from finetune_operator.finetunejob.state.actions import ConfirmMissing
from finetune_operator.finetunejob.state.failure import Cause
from finetune_operator.finetunejob.state.results import is_verdict
from finetune_operator.finetunejob.state.retry import exit_code_of
from finetune_operator.finetunejob.state.stages import RESULT_GRACE_SECONDS, TRAITS, StageView
from finetune_operator.finetunejob.state.step import Step
from finetune_operator.status.conditions import find_condition, parse_timestamp, timestamp

Object = dict[str, Any]

_STOPPING = (
    "{why} The evaluation may have published a version. It is stopped, and the job ends once its"
    " result is known."
)


def stage_to_cut(step: Step, spec: FineTuneJobSpec) -> StageView | None:
    """Return the stage that a limit stops: it runs, a limit stopped it before, or it would resume.

    The last case covers a lost record: a stage that a limit stopped must not run again.
    """
    for view in step.views:
        is_over = view.has_ended or view.is_ending or step.draft.is_done(view.stage)
        if is_over or view.stage is Stage.PUBLISH:
            continue
        is_cut = "cut" in (step.draft.stage(view.stage) or {})
        goes_on = not spec.suspend and is_stopped_by_us(step.observed, view)
        if view.is_stoppable or is_cut or goes_on:
            return view
    return None


def forget_cut(step: Step) -> None:
    """Remove the record that a limit stopped a stage: the limit was raised."""
    for view in step.views:
        if (entry := step.draft.stage(view.stage)) is not None:
            entry.pop("cut", None)


def cut(step: Step, spec: FineTuneJobSpec, view: StageView, cause: Cause) -> None:
    """End the job because of a limit, unless it turns out to be published."""
    step.current = view
    if view.job is not None:
        step.draft.record_stage(view)
    reason = cause.failure_class.value
    if not awaits_result(step, spec, view, reason=reason, why=cause.message):
        fail_stage(step, view, cause)


def awaits_result(
    step: Step, spec: FineTuneJobSpec, view: StageView, *, reason: str, why: str
) -> bool:
    """Return whether the job must not end yet: it is published, or that is not known yet.

    Args:
        step: The plan so far.
        spec: The job's spec.
        view: The stage at which the job is to end.
        reason: Reason for the stage's condition.
        why: Message for it.
    """
    entry = step.draft.stage(view.stage)
    publication = publication_of(spec, step.approval_policy.required)
    if view.stage is not Stage.EVALUATE or entry is None or publication is not Publication.AT_ONCE:
        return False
    result = view.result
    if isinstance(result, EvaluateResult) and is_verdict(result, spec):
        step.draft.record_end(view)
        succeed(step, view)
        conclude(step, spec)
        step.then += release_actions(step.observed, step.views)
        return True
    if not entry.get("firstRunTime") and view.first_ran is None:
        return False
    if view.job is None and view.stage not in step.observed.missing:
        step.first.append(ConfirmMissing(stage=view.stage, name=entry["job"]))
    elif view.is_stoppable or (view.job is not None and not view.is_stopped):
        step.then += release_actions(step.observed, [view])
    elif _has_not_published(view):
        return False
    else:
        patience = spec.grace_seconds + RESULT_GRACE_SECONDS
        left = patience - (step.now - _stopped_at(view, entry, step.now)).total_seconds()
        if left <= 0:
            return False
        step.look_again(left)
    seconds = step.draft.active_seconds([view])
    told = {"reason": reason, "time": timestamp(step.now), "activeSeconds": seconds}
    entry.setdefault("cut", told)
    message = _STOPPING.format(why=why)
    step.draft.conditions.set(TRAITS[view.stage].condition, False, reason, message)
    return True


def _stopped_at(view: StageView, entry: Object, now: datetime) -> datetime:
    """Return when the pods were stopped: by their Job's suspension or its deletion."""
    if view.job is None:
        since = parse_timestamp(entry.setdefault("deletedTime", timestamp(now)))
    else:
        stopped = find_condition(view.job["status"].get("conditions"), "Suspended") or {}
        since = parse_timestamp(stopped.get("lastTransitionTime"))
    return since or now


def _has_not_published(view: StageView) -> bool:
    """Return whether the pods have ended and say that nothing was published.

    A stage ignores stops once it claims a version. A pod that ended as stopped has claimed none.
    """
    is_over = all(pod["status"]["phase"] in ("Succeeded", "Failed") for pod in view.pods)
    return is_over and any(exit_code_of(pod) == ExitCode.STOPPED for pod in view.pods)
