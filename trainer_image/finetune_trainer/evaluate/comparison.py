"""The answers of all variants to the same questions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from finetune_api.v1alpha1.evaluation.scoring import LIKELIHOOD_METRICS
from finetune_trainer.errors import InternalError
from finetune_trainer.evaluate.inference.answers import Said
from finetune_trainer.evaluate.metrics.answers import Answers, Floats
from finetune_trainer.evaluate.questions import Question, with_prompt
from finetune_trainer.evaluate.tokenized import TokenizedQuestions


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
        trained: Prompts and answers of some rows of the train split; empty where it was not read.
    """

    questions: Sequence[Question]
    base: Answers
    tuned: Answers
    prompted: Answers | None = None
    likelihood: Answers | None = None
    unmeasured: Mapping[str, str] = field(default_factory=dict)
    published: Answers | None = None
    trained: Sequence[tuple[str, str]] = ()

    @property
    def asked(self) -> list[Question]:
        """The questions that were put to the models."""
        return with_prompt(self.questions)

    def scored_by(self, metric: str) -> Sequence[Question]:
        """Return the questions that a metric can score.

        Plain text has no answer to compare, so only likelihood metrics score it.
        """
        return self.questions if metric in LIKELIHOOD_METRICS else self.asked


def gather_answers(
    encoded: TokenizedQuestions, num_questions: int, parts: Sequence[Said]
) -> Answers:
    """Put the answers of one variant together.

    Args:
        encoded: All questions.
        num_questions: Their number, with those that are only scored.
        parts: The answers from each worker.

    Raises:
        InternalError: An example or prompt has no answer.
    """
    likelihoods = {i: pair for part in parts for i, pair in part.likelihoods.items()}
    texts = {i: text for part in parts for i, text in part.texts.items()}
    seconds = {i: spent for part in parts for i, spent in part.seconds.items()}
    num_examples, num_prompts = len(encoded.examples), len(encoded.prompts)
    if len(likelihoods) != num_examples or len(texts) != num_prompts:
        raise InternalError(
            "AnswersMissing",
            f"the workers scored {len(likelihoods)} of {num_examples} examples and answered "
            f"{len(texts)} of {num_prompts} prompts",
        )
    sums = np.array([likelihoods[i][0] for i in range(num_examples)])
    counts = np.array([likelihoods[i][1] for i in range(num_examples)])
    size = len(encoded.owners)
    preferred = None
    if num_examples > size:
        wins = count_wins((sums[:size], counts[:size]), (sums[size:], counts[size:]))
        pairs = _sum_by(encoded.owners, np.ones(size), num_questions)
        preferred = _sum_by(encoded.owners, wins, num_questions) / pairs
    num_bytes = None
    if encoded.num_bytes:
        num_bytes = _sum_by(encoded.owners, np.array(encoded.num_bytes), num_questions)
    return Answers(
        texts=[texts[i] or "" for i in range(num_prompts)],
        unended=frozenset(i for i in range(num_prompts) if texts[i] is None),
        cut=frozenset(i for part in parts for i in part.cut),
        nll_sums=_sum_by(encoded.owners, sums[:size], num_questions),
        num_tokens=_sum_by(encoded.owners, counts[:size], num_questions),
        preferred=preferred,
        num_bytes=num_bytes,
        seconds=np.array([seconds.get(i, np.nan) for i in range(num_prompts)]),
    )


def count_wins(chosen: tuple[Floats, Floats], rejected: tuple[Floats, Floats]) -> Floats:
    """Return 1 for every pair whose better answer is the likelier one, half for a draw, else 0.

    Likelihoods are per token: summed over an answer, the shorter one would nearly always win.

    Args:
        chosen: Negative log-likelihoods of the better answers, and their tokens.
        rejected: The same of the worse ones.
    """
    better, worse = (sums / np.maximum(1.0, counts) for sums, counts in (chosen, rejected))
    wins: Floats = (better < worse) + 0.5 * (better == worse)
    return wins


def _sum_by(owners: NDArray[np.int64], values: Floats, size: int) -> Floats:
    # A question may stand for several rows, one per reference.
    return np.bincount(owners, weights=values, minlength=size).astype(np.float64)
