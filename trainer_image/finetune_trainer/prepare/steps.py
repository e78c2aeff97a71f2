"""The row steps of a job, in their order."""

from __future__ import annotations

from finetune_api.v1alpha1.finetunejob import FineTuneJobSpec
from finetune_trainer.prepare.checks.reasoning import Reasoning
from finetune_trainer.prepare.checks.row_checks import TEXT_CHECKS
from finetune_trainer.prepare.checks.screening import RowStep
from finetune_trainer.prepare.privacy.step import privacy_steps


def choose_steps(spec: FineTuneJobSpec) -> tuple[RowStep, ...]:
    """Return the row steps of a job; personal data is removed first."""
    return (*privacy_steps(spec.dataset.privacy), *TEXT_CHECKS, Reasoning())
