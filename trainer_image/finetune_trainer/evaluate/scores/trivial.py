"""What needs no model: the most frequent label, or the prompt said again. Pure.

Where one answer in a hundred is "fraud", never saying so is right in 99 of them. A score is worth
what it is above that.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from finetune_trainer.evaluate.metrics.answers import Answers, Measured
from finetune_trainer.evaluate.metrics.catalog import Settings, measure
from finetune_trainer.evaluate.metrics.labels import looks_like_labels, normalize_label
from finetune_trainer.evaluate.questions import Question

MOST_FREQUENT = "the most frequent label"
PROMPT = "the prompt itself"


@dataclass(frozen=True, kw_only=True, slots=True)
class Trivial:
    """Answers that need no model.

    Attributes:
        what: What is answered, in words; never the label itself, which is text of a row.
        texts: The answer to each question.
        is_label: It is the most frequent label: a model that does no better has learned nothing.
    """

    what: str
    texts: Sequence[str]
    is_label: bool


def answer_trivially(asked: Sequence[Question]) -> Trivial:
    """Return the best that an answer without a model can be.

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
        return Trivial(what=MOST_FREQUENT, texts=[label] * len(asked), is_label=True)
    return Trivial(what=PROMPT, texts=repeat_prompts(asked), is_label=False)


def repeat_prompts(asked: Iterable[Question]) -> list[str]:
    """Return the last user message of each question, as if it were the answer."""
    return [_last_words(question.prompt) for question in asked]


def score_texts(
    metric: str, texts: Sequence[str], asked: Sequence[Question], settings: Settings
) -> Measured:
    """Return what texts that no model gave score as the answers to questions.

    Raises:
        UserError: A pattern takes too long, or the user's own metric failed.
    """
    nothing = np.zeros(len(texts))
    return measure(
        metric,
        Answers(texts=texts, nll_sums=nothing, num_tokens=nothing),
        [question.references for question in asked],
        settings=settings,
        prompts=[question.prompt for question in asked],
    )


def _last_words(prompt: list[dict[str, Any]] | str | None) -> str:
    if not isinstance(prompt, list):
        return prompt or ""
    return next((str(turn["content"] or "") for turn in prompt[::-1] if turn["role"] == "user"), "")
