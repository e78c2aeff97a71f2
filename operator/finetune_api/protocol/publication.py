"""When a candidate that passed its goal and gates is published.

Operator, trainer and CLI call :func:`publication_of`. It does not change during a job's life,
because it depends on the immutable spec and on the policy recorded at acceptance.
"""

from __future__ import annotations

from collections.abc import Collection
from enum import StrEnum

from finetune_api.v1alpha1.approval import Subject
from finetune_api.v1alpha1.finetunejob import FineTuneJobSpec


class Publication(StrEnum):
    """Who has to agree before a candidate that passed is published."""

    AT_ONCE = "AtOnce"
    """Nobody: the evaluation's pod publishes at its end."""
    AFTER_REVIEW = "AfterReview"
    """The reviewers of ``evaluation.review``: Job ``publish`` publishes after them."""
    AFTER_APPROVAL = "AfterApproval"
    """After an approval in the namespace, Job ``publish`` publishes."""


def needs_approval(spec: FineTuneJobSpec, required_approvals: Collection[Subject]) -> bool:
    """Return whether the job or the policy asks for an approval of the publication."""
    return spec.output.approval == "Required" or "Publication" in required_approvals


def publication_of(spec: FineTuneJobSpec, required_approvals: Collection[Subject]) -> Publication:
    """Return when the candidate of a job is published, if it passes.

    Args:
        spec: The job's spec.
        required_approvals: Subjects that need an approval by the administrator's policy. The result
            of a required review is an approval too.
    """
    review = spec.evaluation.review
    if review is not None and review.required:
        return Publication.AFTER_REVIEW
    if needs_approval(spec, required_approvals):
        return Publication.AFTER_APPROVAL
    return Publication.AT_ONCE
