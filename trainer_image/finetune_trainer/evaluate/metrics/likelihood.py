"""How likely a model holds the references for: loss, perplexity, and which answer it prefers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from finetune_trainer.evaluate.metrics.answers import Answers, Floats, Measured, mean_of

_MAX_LOSS = 50.0
"""Beyond it, perplexity is a number without meaning."""


def loss(answers: Answers) -> Measured:
    """Return the negative log-likelihood of the references per token, in nats."""
    return _per_unit(answers.nll_sums, answers.num_tokens)


def perplexity(answers: Answers) -> Measured:
    """Return e to the loss."""
    plain = loss(answers)
    return Measured(
        rows=np.exp(np.minimum(plain.rows, _MAX_LOSS)),
        over=lambda rows: float(np.exp(min(plain.over(rows), _MAX_LOSS))),
    )


def bits_per_byte(answers: Answers) -> Measured:
    """Return the bits that the model needs for each byte of the references' text in UTF-8.

    Unlike the loss it compares between models with other tokenizers.
    """
    assert answers.num_bytes is not None
    return _per_unit(answers.nll_sums / np.log(2), answers.num_bytes)


def seconds_per_answer(answers: Answers) -> Measured:
    """Return the time that the evaluation took for an answer: a batch's, shared by its answers."""
    assert answers.seconds is not None
    return mean_of(answers.seconds)


def preference_accuracy(answers: Answers) -> Measured:
    """Return the share of pairs whose better answer the model holds for likelier."""
    assert answers.preferred is not None
    return mean_of(answers.preferred)


def _per_unit(sums: Floats, counts: Floats) -> Measured:
    def score(rows: NDArray[np.int64]) -> float:
        return float(sums[rows].sum() / max(1.0, float(counts[rows].sum())))

    return Measured(rows=sums / np.maximum(1.0, counts), over=score)
