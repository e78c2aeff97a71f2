"""A candidate that somebody publishes after the job's end.

It missed its goal or a gate, or it passed and its publication failed. ``Failed`` stays true, for so
the job has ended. A FineTuneApproval of subject ``Publication`` that names the evaluation's digest
is recorded in ``status.publication`` first; Job ``publish`` follows, and what it did becomes the
condition ``Published``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from finetune_api.protocol.evaluation_result import EvaluateResult
from finetune_api.protocol.trainer import Stage
from finetune_api.v1alpha1.finetunejob import FineTuneJobSpec
from finetune_operator.finetunejob.lifecycle.starting import MAX_RUNS, create_stage
from finetune_operator.finetunejob.pods.podbounds import find_job_violations
from finetune_operator.finetunejob.publication.endings import set_unpublished
from finetune_operator.finetunejob.publication.publishing import (
    SECTION,
    decided_on_publication,
    own_approvals,
)
from finetune_operator.finetunejob.state import results
from finetune_operator.finetunejob.state.decisions import (
    OWN_APPROVALS,
    Decision,
    own_approvals_text,
)
from finetune_operator.finetunejob.state.draft import JobDraft
from finetune_operator.finetunejob.state.failure import latest_cause
from finetune_operator.finetunejob.state.stages import StageState, StageView
from finetune_operator.finetunejob.state.step import Step
from finetune_operator.status.conditions import (
    MESSAGE_CHARACTERS,
    ConditionType,
    Reason,
    shorten,
)

_MISSED = (Reason.GOAL_NOT_MET, Reason.GATES_NOT_MET)
"""Reasons of ``Failed`` of a job whose candidate missed what it was held to."""
_OPEN = (*_MISSED, Reason.PUBLISHING_FAILED, Reason.JOB_DELETED)
"""Reasons of ``Published`` that a decision may change."""
_UNDER_WAY = Reason.PUBLISHING
_NO_WORD = "Job publish ended without a word on a version, which may be published all the same."


def is_overriding(draft: JobDraft) -> bool:
    """Return whether a publication is under way that somebody decided on after the job's end."""
    told = draft.conditions.reason_of(ConditionType.PUBLISHED)
    return told == _UNDER_WAY and bool(draft.get(SECTION))


def follow_override(step: Step) -> bool:
    """Act on a decision to publish the candidate; return whether there is one."""
    parsed = step.observed.parsed
    if parsed is None:
        return False
    if is_overriding(step.draft):
        _go_on(step, parsed.spec)
        return True
    is_open = step.draft.conditions.reason_of(ConditionType.PUBLISHED) in _OPEN
    return is_open and _begin(step, parsed.spec)


def set_own_approvals(step: Step) -> bool:
    """Say in ``Published`` which approvals of the requester do not count; return whether any do so.

    What the condition said before stays in front of it.
    """
    parsed, told = step.observed.parsed, step.draft.conditions.get(ConditionType.PUBLISHED)
    if parsed is None or told is None or told["reason"] not in _OPEN:
        return False
    own = own_approvals(
        parsed.spec,
        step.draft.sections(),
        _untried(step.draft.get(SECTION), step.observed.decisions),
    )
    if not own:
        return False
    text = f" {own_approvals_text(own)}"
    before = told["message"].partition(f" {OWN_APPROVALS}")[0]
    message = shorten(before, MESSAGE_CHARACTERS - len(text)) + text
    if message != told["message"]:
        step.draft.announce(Reason.APPROVED_BY_REQUESTER, text.strip(), warning=True)
    step.draft.conditions.set(ConditionType.PUBLISHED, False, told["reason"], message)
    return True


def _publish_view(views: Sequence[StageView]) -> StageView:
    return next(view for view in views if view.stage is Stage.PUBLISH)


def _begin(step: Step, spec: FineTuneJobSpec) -> bool:
    """Record the decision; the plan after the write acts on it, so that none is without record."""
    draft = step.draft
    decision = decided_on_publication(
        spec, draft.sections(), _untried(step.draft.get(SECTION), step.observed.decisions)
    )
    if decision is None or not decision.is_approval:
        return False
    run = max(_publish_view(step.views).run, draft.last_run(Stage.PUBLISH)) + 1
    draft.put(SECTION, {**decision.to_wire(), "run": run})
    is_missed = draft.conditions.reason_of(ConditionType.FAILED) in _MISSED
    although = " although it missed" if is_missed else ""
    message = (
        f"{decision.by} decided to publish the candidate{although} (FineTuneApproval"
        f" {decision.name}): {decision.reason}. Job publish does it."
    )
    draft.conditions.set(ConditionType.PUBLISHED, False, _UNDER_WAY, message)
    draft.announce(Reason.OVERRIDDEN if is_missed else _UNDER_WAY, message, warning=is_missed)
    step.look_again(0.0)
    return True


def _untried(
    publication: Mapping[str, Any] | None, decisions: tuple[Decision, ...] | None
) -> tuple[Decision, ...]:
    """Return the decisions without the approvals up to the one that was tried: a later one counts.

    The objects of those that were tried stay as a rule, and stand before it.
    """
    tried = publication or {}
    until = tried.get("time") or "", tried.get("name") or ""
    made = decisions or ()
    return tuple(each for each in made if not each.is_approval or (each.time, each.name) > until)


def _go_on(step: Step, spec: FineTuneJobSpec) -> None:
    view, draft = _publish_view(step.views), step.draft
    run = int(draft.get(SECTION).get("run") or 1)
    if draft.last_run(Stage.PUBLISH) >= run > view.run:
        _end(step, Reason.JOB_DELETED, "Job publish was deleted before its end.")
    elif view.run < run:
        _create(step, spec, run)
    elif not view.has_ended:
        draft.record_stage(view)
    elif not view.is_settled(step.now):
        draft.record_stage(view)
        step.look_again(1.0)
    else:
        draft.record_stage(view)
        draft.record_end(view)
        _conclude(step, view, run)


def _create(step: Step, spec: FineTuneJobSpec, run: int) -> None:
    refusal = step.observed.refusals.get(Stage.PUBLISH)
    violations = list(find_job_violations(spec, step.config, Stage.PUBLISH))
    if violations:
        words = "; ".join(str(each) for each in violations)
        _end(step, Reason.PUBLISHING_FAILED, f"Job publish may not be created: {words}")
    elif refusal is None:
        step.first.append(create_stage(step, spec, Stage.PUBLISH, run=run))
    elif refusal.is_final:
        _end(step, Reason.PUBLISHING_FAILED, f"{refusal.reason}: {refusal.message}")
    else:
        told = step.draft.conditions
        if refusal.message not in (told.get(ConditionType.PUBLISHED) or {}).get("message", ""):
            step.draft.announce(refusal.reason, f"publish: {refusal.message}", warning=True)
        message = f"Job publish cannot be created: {refusal.message}"
        told.set(ConditionType.PUBLISHED, False, _UNDER_WAY, message)
        step.look_again(refusal.retry_seconds)


def _conclude(step: Step, view: StageView, run: int) -> None:
    draft, result = step.draft, view.result
    if view.state is not StageState.SUCCEEDED:
        cause = latest_cause(view.pods)
        message = cause.message if cause else view.failure_message or "Job publish failed."
        _end(step, Reason.PUBLISHING_FAILED, message)
    elif isinstance(result, EvaluateResult) and result.version is not None:
        made = draft.get(SECTION)
        artifact = draft.get("artifact") or {}
        draft.put("artifact", results.published_section(artifact, result))
        reason, words = Reason.PUBLISHED, f": {results.scores_text(result)}"
        if result.is_missed:
            reason, words = Reason.OVERRIDDEN, f", although it missed: {result.missed_words}"
        message = (
            f"Version {result.version}{words}. {made['by']} decided so (FineTuneApproval"
            f" {made['name']}): {made.get('reason', '')}"
        )
        draft.conditions.set(ConditionType.PUBLISHED, True, reason, message)
        draft.announce("Published", message, warning=result.is_missed)
    elif result is None and run < MAX_RUNS:
        # Its last words were lost; the next run finds the version and says so.
        draft.put(SECTION, {**draft.get(SECTION), "run": run + 1})
        step.look_again(0.0)
    else:
        _end(step, Reason.PUBLISHING_FAILED, _NO_WORD)


def _end(step: Step, reason: str, message: str) -> None:
    set_unpublished(step, reason, message)
    step.draft.announce(reason, message, warning=True)
