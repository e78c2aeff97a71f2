"""Which of the held-out rows models are asked about. Pure."""

from __future__ import annotations

import json
import random
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


def draw_questions(number: int, *, most: int, seed: int) -> list[int]:
    """Return the numbers of the questions that are asked, ascending.

    ``most`` of ``number`` questions are drawn with the seed ``dataset.split.seed``.
    """
    if number <= most:
        return list(range(number))
    return sorted(order_questions(number, seed=seed)[:most])


def order_questions(number: int, *, seed: int) -> list[int]:
    """Return the numbers of all questions in the order in which they are drawn.

    A larger draw contains every smaller one.
    """
    return random.Random(seed).sample(range(number), number)  # noqa: S311 - no secret
