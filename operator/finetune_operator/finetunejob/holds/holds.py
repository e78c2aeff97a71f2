"""What may hold a stage back before it starts: asked here, and nowhere else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from finetune_api.protocol.stage_results import TrainResult
from finetune_api.protocol.trainer import Stage
from finetune_api.v1alpha1.finetunejob import FineTuneJobSpec
from finetune_operator.finetunejob.holds import pruning
from finetune_operator.finetunejob.holds.approval import asks_for_data
from finetune_operator.finetunejob.holds.estimate import is_budget_warning_unsent, is_hopeless
from finetune_operator.finetunejob.pods.podbounds import Violation, find_job_violations
from finetune_operator.finetunejob.publication import publishing
from finetune_operator.finetunejob.publication.publishing import overrules, why_publishing_waits
from finetune_operator.finetunejob.render.job import is_queued
from finetune_operator.finetunejob.state.decisions import PHASE, SECTION
from finetune_operator.finetunejob.state.stages import TRAITS
from finetune_operator.finetunejob.state.step import Step
from finetune_operator.status.conditions import ConditionType, Reason

_RECORDS = {Stage.TRAIN: (SECTION,), Stage.PUBLISH: (SECTION, publishing.SECTION)}
"""Where the status keeps the decisions that a stage goes by."""
KUEUE_RECHECK_SECONDS = 60.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Hold:
    """Why a stage may not start now.

    Attributes:
        reason: Stable cause.
        message: What it waits for, and what to do.
        told_in: The condition that tells it; None if another room has told it already.
        subject: What the Event begins with, such as the stage; may be empty.
        is_queued: Whether the job counts as queued meanwhile.
        phase: The job's phase meanwhile, if it has one of its own.
        shown_in: The condition that says why, where the job has such a phase.
        is_final: Whether waiting cannot help: the job ends.
        is_expected: Whether the job was created to wait here, so that nobody needs a warning.
        is_announced: Whether there is an Event; what waits for a controller alone needs none.
        recheck_seconds: After how long to ask again; None if a change wakes the job by itself.
    """

    reason: str
    message: str
    told_in: ConditionType | None = None
    subject: str = ""
    is_queued: bool = False
    phase: str = ""
    shown_in: ConditionType | None = None
    is_final: bool = False
    is_expected: bool = False
    is_announced: bool = True
    recheck_seconds: float | None = None


def hold(step: Step, spec: FineTuneJobSpec, stage: Stage) -> Hold | None:
    """Return what holds a stage back; None if it may start."""
    for ask in _HOLDS:
        found = ask(step, spec, stage)
        if found is not None:
            return found
    return None


def _suspended(step: Step, spec: FineTuneJobSpec, stage: Stage) -> Hold | None:
    if not spec.suspend and not step.draft.is_true(ConditionType.SUSPENDED):
        return None
    return Hold(reason=Reason.SUSPENDED_BY_USER, message="Held by spec.suspend.")


def _unaffordable(step: Step, spec: FineTuneJobSpec, stage: Stage) -> Hold | None:
    """Let no job hold GPUs whose budget cannot be enough, or before it is said that it may not."""
    if stage is not Stage.TRAIN:
        return None
    if message := is_hopeless(step, spec):
        return Hold(reason=Reason.BUDGET_TOO_SMALL, message=message, is_final=True)
    if not is_budget_warning_unsent(step):
        return None
    told = step.draft.conditions.get(ConditionType.WITHIN_BUDGET) or {}
    return Hold(reason=told["reason"], message=told["message"], recheck_seconds=0.0)


def _unapproved(step: Step, spec: FineTuneJobSpec, stage: Stage) -> Hold | None:
    """Hold training back until somebody has approved the data; the condition has told it."""
    told = step.draft.conditions.get(ConditionType.DATA_APPROVED) or {}
    if not asks_for_data(step, spec, stage) or told.get("status") == "True":
        return None
    return Hold(
        reason=told.get("reason", Reason.APPROVAL_REQUIRED),
        message=told.get("message", ""),
        phase=PHASE,
        shown_in=ConditionType.DATA_APPROVED,
    )


def _unselected(step: Step, spec: FineTuneJobSpec, stage: Stage) -> Hold | None:
    """Hold the evaluation back for as long as whoever chooses among several jobs has not."""
    if not pruning.is_held(spec, stage):
        return None
    return Hold(
        reason=Reason.HELD_AFTER_TRAINING,
        message=pruning.held_text(step.result(TrainResult)),
        told_in=ConditionType.EVALUATED,
        phase=pruning.PHASE,
        shown_in=ConditionType.EVALUATED,
        is_expected=True,
        is_announced=not step.observed.is_trial,
    )


def _undecided(step: Step, spec: FineTuneJobSpec, stage: Stage) -> Hold | None:
    """Hold publishing back while something stands between it and the evaluation."""
    if stage is not Stage.PUBLISH or not (evaluation := step.draft.get("evaluation")):
        return None  # without an evaluation that is known, the stage only reads it
    if not evaluation.get("digest") or overrules(step.draft.get(publishing.SECTION)):
        return None
    waits = why_publishing_waits(spec, step.draft.sections(), step.observed.decisions)
    if not waits:
        return None
    return Hold(
        reason=waits[0].reason,
        message=" ".join(wait.message for wait in waits),
        told_in=ConditionType.PUBLISHED,
        phase=PHASE,
        shown_in=ConditionType.PUBLISHED,
        is_final=any(wait.is_final for wait in waits),
    )


def _disallowed(step: Step, spec: FineTuneJobSpec, stage: Stage) -> Hold | None:
    """Hold pods back that the settings of today do not allow."""
    violations = list(find_job_violations(spec, step.config, stage))
    return of_settings(stage, violations) if violations else None


def of_settings(stage: Stage, violations: Sequence[Violation]) -> Hold:
    """Return what holds a stage of an accepted job back that breaks settings of today.

    Settings change, and may be mistyped: the job keeps what it has, and waits for them.
    """
    told_in = TRAITS[stage].condition
    return Hold(
        reason=violations[0].reason,
        message=(
            f"{'; '.join(str(each) for each in violations)}. The job was accepted before this was"
            " refused. It keeps what it has and waits until the settings allow it; or create a job"
            " with a corrected spec and delete this one."
        ),
        told_in=told_in,
        subject=f"{stage.value}: ",
        shown_in=told_in,
    )


def _without_kueue(step: Step, spec: FineTuneJobSpec, stage: Stage) -> Hold | None:
    if not is_queued(spec, stage) or step.observed.has_kueue:
        return None
    return Hold(
        reason=Reason.KUEUE_NOT_INSTALLED,
        message=(
            f"The job names queue {spec.queue_name!r}, and Kueue is not installed here (or switched"
            " off in the operator's configuration, or its Workloads cannot be listed: the log of"
            " the operator says why). It waits; create it without queueName to run at once."
        ),
        told_in=ConditionType.QUOTA_RESERVED,
        is_queued=True,
        recheck_seconds=KUEUE_RECHECK_SECONDS,
    )


def _refused(step: Step, spec: FineTuneJobSpec, stage: Stage) -> Hold | None:
    refusal = step.observed.refusals.get(stage)
    if refusal is None:
        return None
    return Hold(
        reason=refusal.reason,
        message=refusal.message,
        told_in=TRAITS[stage].condition,
        subject=f"{stage.value}: ",
        is_final=refusal.is_final,
        recheck_seconds=refusal.retry_seconds,
    )


def _unrecorded(step: Step, spec: FineTuneJobSpec, stage: Stage) -> Hold | None:
    """Store a decision first: the next plan acts on it, so that no Job is without a record."""
    stored = step.observed.job.get("status") or {}
    if all(step.draft.get(each) == stored.get(each) for each in _RECORDS.get(stage, ())):
        return None
    return Hold(reason=Reason.APPROVED, message="The approval is recorded.", recheck_seconds=0.0)


_HOLDS: tuple[Callable[[Step, FineTuneJobSpec, Stage], Hold | None], ...] = (
    _suspended,
    _unaffordable,
    _unapproved,
    _unselected,
    _undecided,
    _disallowed,
    _without_kueue,
    _refused,
    _unrecorded,
)
