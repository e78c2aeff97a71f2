"""What an answer looks like, without regard to its references: a pattern in it, its length."""

from __future__ import annotations

from collections.abc import Sequence

import regex

from finetune_trainer.errors import UserError
from finetune_trainer.evaluate.metrics.answers import Measured, References, mean_of

MATCH_SECONDS = 2.0
"""For one answer. Some expressions take time in the power of the answer's length."""


def regex_match(pattern: str, texts: Sequence[str], references: References) -> Measured:
    """Return the share of answers in which a regular expression matches somewhere.

    Args:
        pattern: The expression, as Python writes it.
        texts: The answers.
        references: Not looked at.

    Raises:
        UserError: ``AnswerPatternUnusable``: it takes too long.
    """
    try:
        compiled = regex.compile(pattern)
        return mean_of(
            [float(compiled.search(text, timeout=MATCH_SECONDS) is not None) for text in texts]
        )
    except (regex.error, TimeoutError) as error:
        what = "takes too long" if isinstance(error, TimeoutError) else f"is unusable: {error}"
        raise UserError(
            "AnswerPatternUnusable",
            f"evaluation.answerPattern {what}; write it without repeats inside of repeats",
        ) from None


def answer_length(texts: Sequence[str], references: References) -> Measured:
    """Return the mean length of the answers, in characters."""
    return mean_of([float(len(text)) for text in texts])
