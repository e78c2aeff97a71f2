"""Which of the held-out rows models are asked about. Pure."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

from finetune_api.v1alpha1.evaluation.spec import DEFAULT_SAMPLES, Evaluation
from finetune_trainer.data.rows import prompt_of


def most_asked(evaluation: Evaluation, chosen: int | None = None) -> int:
    """Return how many held-out questions are asked at most.

    ``chosen`` is the choice of ``prepare``, where the job leaves it open; the field's default
    replaces None.
    """
    if isinstance(evaluation.max_samples, int):
        return evaluation.max_samples
    return DEFAULT_SAMPLES if chosen is None else chosen


def question_of(row: dict[str, Any]) -> str:
    """Return the common part of rows of one question: prompt and tools."""
    return json.dumps([prompt_of(row), row.get("tools")], sort_keys=True)


def draw_questions(groups: Sequence[str], *, most: int, seed: int) -> list[int]:
    """Return the numbers of the questions that are asked, ascending.

    ``most`` of the questions of these groups are drawn with the seed ``dataset.split.seed``.
    """
    if len(groups) <= most:
        return list(range(len(groups)))
    return sorted(order_questions(groups, seed=seed)[:most])


def order_questions(groups: Sequence[str], *, seed: int) -> list[int]:
    """Return the numbers of all questions in the order in which they are drawn.

    A larger draw contains every smaller one. No group has its second question before every group
    has its first: each counts once, and a large one must not be drawn more often.
    """
    turns: Counter[str] = Counter()
    ranks = {}
    order = order_rows(len(groups), seed=seed)
    for number in order:
        ranks[number] = turns[groups[number]]
        turns[groups[number]] += 1
    return sorted(order, key=ranks.__getitem__)


def order_rows(number: int, *, seed: int) -> list[int]:
    """Return so many numbers in an order by chance."""
    return random.Random(seed).sample(range(number), number)  # noqa: S311 - no secret
