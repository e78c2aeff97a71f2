"""What needs no model: the most frequent label, or the prompt said again. Pure.

Where one answer in a hundred is "fraud", never saying so is right in 99 of them. A score is worth
what it is above that.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from finetune_trainer.evaluate.metrics.answers import Answers, Measured, mean_of
from finetune_trainer.evaluate.metrics.catalog import Settings, measure
from finetune_trainer.evaluate.metrics.labels import looks_like_labels, normalize_label
from finetune_trainer.evaluate.metrics.words import split_words
from finetune_trainer.evaluate.questions import Question, text_of_prompt
from finetune_trainer.evaluate.scores.copies import PROMPT, last_messages

MOST_FREQUENT = "the most frequent label"
TIMES, LEAST_CHARACTERS, REPEATED = 3, 100, 2 / 3
"""By `contains` an answer counts that is at most so many times as long as its reference, or has at
most so many characters, or has less than this share of its words from the prompt: a copy of the
context contains everything."""


def answer_trivially(asked: Sequence[Question]) -> tuple[str, Sequence[str]]:
    """Return the best that an answer without a model can be: what it is, and that to each question.

    The label is the one that most of the held-out rows accept, so that nobody can know a better one
    beforehand.

    Args:
        asked: Questions with a prompt.
    """
    references = [question.references for question in asked]
    if looks_like_labels(references):
        counts = Counter(
            label for group in references for label in dict.fromkeys(map(normalize_label, group))
        )
        label = counts.most_common(1)[0][0]
        return MOST_FREQUENT, [label] * len(asked)
    return PROMPT, last_messages(asked)


def score_texts(
    metric: str, texts: Sequence[str], asked: Sequence[Question], settings: Settings
) -> Measured:
    """Return what texts that no model gave score as the answers to questions.

    By ``contains`` long ones that repeat the prompt score 0.

    Raises:
        UserError: A pattern takes too long, or the user's own metric failed.
    """
    nothing = np.zeros(len(texts))
    scored = measure(
        metric,
        Answers(texts=texts, nll_sums=nothing, num_tokens=nothing),
        [question.references for question in asked],
        settings=settings,
        prompts=[question.prompt for question in asked],
    )
    return drop_long(scored, texts, asked) if metric == "contains" else scored


def drop_long(scored: Measured, texts: Sequence[str], asked: Sequence[Question]) -> Measured:
    """Return scores by `contains` without the hits of long answers that repeat the prompt."""
    hits = zip(scored.rows, texts, asked, strict=True)
    return mean_of([0.0 if hit and _is_long_copy(text, each) else hit for hit, text, each in hits])


def _is_long_copy(text: str, question: Question) -> bool:
    longest = max(map(len, question.references), default=0)
    if len(text) <= max(LEAST_CHARACTERS, TIMES * longest):
        return False
    words, known = split_words(text), set(split_words(text_of_prompt(question.prompt)))
    return sum(word in known for word in words) >= REPEATED * len(words)


def choose_by_length(questions: Sequence[Question]) -> tuple[str, Measured]:
    """Return whether longer or shorter answers of pairs are the better ones, and how often."""
    shares = np.array([np.mean([_is_longer(row) for row in each.rows]) for each in questions])
    is_longer = shares.mean() >= 0.5
    return ("longer", mean_of(shares)) if is_longer else ("shorter", mean_of(1 - shares))


def _is_longer(row: dict[str, Any]) -> float:
    """Return 1 where the better answer of a pair is longer, half where both are equally long."""
    pair = (row["completion"], row["rejected"])
    better, worse = (len(a if isinstance(a, str) else str(a[-1]["content"])) for a in pair)
    return (better > worse) + 0.5 * (better == worse)
