"""The review by people as a source of evidence: its verdicts come after the evaluation."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from finetune_api.protocol.trainer import ResolvedJob
from finetune_trainer.evaluate.comparison import Comparison
from finetune_trainer.evaluate.sources.review.blinding import SECRET_BYTES
from finetune_trainer.evaluate.sources.review.files import write_review
from finetune_trainer.evaluate.sources.review.making import make_review
from finetune_trainer.evaluate.sources.source import (
    EvidenceSource,
    Inquiry,
    Measured,
    Outcome,
    Place,
    Said,
    Services,
    Task,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class ReviewSection:
    """What the page shows of the review."""

    template: ClassVar[str] = "sources/review/section.html.j2"
    anchor: ClassVar[str] = "review"
    title: ClassVar[str] = "Review"
    place: ClassVar[Place] = "people"

    words: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ReviewSource(EvidenceSource, Inquiry, Measured):
    """The review that a job asks for; the report says so where it asks for none."""

    job: ResolvedJob
    services: Services

    @classmethod
    def open(cls, job: ResolvedJob, services: Services) -> ReviewSource:
        """See :class:`EvidenceSource`."""
        return cls(job=job, services=services)

    def ask(self, task: Task) -> ReviewSource:
        """See :class:`EvidenceSource`."""
        return self

    def measure(self, job: ResolvedJob, said: Said, comparison: Comparison) -> ReviewSource:
        """See :class:`Inquiry`."""
        return self

    def describe(self, outcome: Outcome) -> ReviewSection:
        """See :class:`Measured`."""
        return ReviewSection(words=review_words(self.job, outcome.uri))

    def write(self, folder: Path, outcome: Outcome) -> None:
        """Draw the questions, and write what reviewers get."""
        review = self.job.spec.evaluation.review
        if review is None:
            return
        hidden, key, facts = make_review(
            self.job,
            review,
            outcome.comparison,
            outcome.row_scores,
            secret=secrets.token_bytes(SECRET_BYTES),
        )
        write_review(folder, hidden, key, facts=facts)
        self.services.emit.message(
            f"{len(hidden.items)} questions wait for {review.reviewers} reviewer(s): "
            f"finetune review open {outcome.uri}"
        )


def review_words(job: ResolvedJob, evaluation_uri: str) -> str:
    """Say whether people look at the answers, and how."""
    review = job.spec.evaluation.review
    if review is None:
        return "The job asks for no review by people (evaluation.review)."
    must = "Nothing is published before" if review.required else "It is published without waiting;"
    return (
        f"{must} {review.reviewers} reviewer(s) judge {review.sample} questions, both answers side "
        f"by side and not knowing which is whose, by {', '.join(review.rubric)}. Their result "
        f"comes after this page: finetune review open {evaluation_uri}."
    )
