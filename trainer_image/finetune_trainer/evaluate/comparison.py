"""The answers of all variants to the same questions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from finetune_api.v1alpha1.evaluation.scoring import LIKELIHOOD_METRICS
from finetune_trainer.evaluate.metrics.answers import Answers
from finetune_trainer.evaluate.questions import Question, with_prompt


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """The answers of all variants to the same questions.

    Attributes:
        questions: The questions.
        base: Answers of the base model without a prompt of ours.
        tuned: Answers of the tuned model.
        prompted: Answers of the base model with a prompt; None where it got none.
        likelihood: The likeliest labels to the base model behind that prompt; None where answers
            are not labels.
        unmeasured: The reason, for each requested metric that could not be measured.
        published: Answers of the published version; None where it was not asked.
        trained: Some answers of the train split; empty where they were not read.
    """

    questions: Sequence[Question]
    base: Answers
    tuned: Answers
    prompted: Answers | None = None
    likelihood: Answers | None = None
    unmeasured: Mapping[str, str] = field(default_factory=dict)
    published: Answers | None = None
    trained: Sequence[str] = ()

    @property
    def asked(self) -> list[Question]:
        """The questions that were put to the models."""
        return with_prompt(self.questions)

    def scored_by(self, metric: str) -> Sequence[Question]:
        """Return the questions that a metric can score.

        Plain text has no answer to compare, so only likelihood metrics score it.
        """
        return self.questions if metric in LIKELIHOOD_METRICS else self.asked
