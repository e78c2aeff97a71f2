"""What may hold a stage back before it starts: asked here, and nowhere else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from finetune_api.trainer import Stage
from finetune_api.v1alpha1.finetunejob import FineTuneJobSpec
from finetune_operator.finetunejob.decisions import PHASE, SECTION, needs_approval
from finetune_operator.finetunejob.render.job import is_queued
from finetune_operator.finetunejob.stages import TRAITS
from finetune_operator.finetunejob.step import Step
from finetune_operator.status.conditions import ConditionType, Reason

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
        is_final: Whether waiting cannot help: the job ends.
        recheck_seconds: After how long to ask again; None if a change wakes the job by itself.
    """

    reason: str
    message: str
    told_in: ConditionType | None = None
    subject: str = ""
    is_queued: bool = False
    phase: str = ""
    is_final: bool = False
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


def _unapproved(step: Step, spec: FineTuneJobSpec, stage: Stage) -> Hold | None:
    """Hold training back until somebody has approved the data; the condition has told it."""
    told = step.draft.conditions.get(ConditionType.DATA_APPROVED) or {}
    if stage is not Stage.TRAIN or not needs_approval(spec) or told.get("status") == "True":
        return None
    return Hold(
        reason=told.get("reason", Reason.APPROVAL_REQUIRED),
        message=told.get("message", ""),
        phase=PHASE,
    )


def _without_kueue(step: Step, spec: FineTuneJobSpec, stage: Stage) -> Hold | None:
    if not is_queued(spec, stage) or step.observed.has_kueue:
        return None
    return Hold(
        reason=Reason.KUEUE_NOT_INSTALLED,
        message=(
            f"The job names queue {spec.queue_name!r}, and Kueue is not installed here (or switched"
            " off in the operator's configuration). It waits; create it without queueName to run"
            " at once."
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
    """Store an approval first: the next plan acts on it, so that no Job is without a record."""
    stored = (step.observed.job.get("status") or {}).get(SECTION)
    if stage is not Stage.TRAIN or step.draft.get(SECTION) == stored:
        return None
    return Hold(reason=Reason.APPROVED, message="The approval is recorded.", recheck_seconds=0.0)


_HOLDS: tuple[Callable[[Step, FineTuneJobSpec, Stage], Hold | None], ...] = (
    _suspended,
    _unapproved,
    _without_kueue,
    _refused,
    _unrecorded,
)
