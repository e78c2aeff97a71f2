"""Which of the held-out rows models are asked about. Pure."""

from __future__ import annotations

import json
import random
from typing import Any

from finetune_trainer.data.rows import prompt_of


def question_of(row: dict[str, Any]) -> str:
    """Return what rows of one question have in common: their prompt and its tools."""
    return json.dumps([prompt_of(row), row.get("tools")], sort_keys=True)


def draw_questions(number: int, *, most: int, seed: int) -> list[int]:
    """Return the numbers of the questions that are asked, ascending.

    Args:
        number: How many there are, in the order of their first rows.
        most: ``evaluation.maxSamples``.
        seed: ``dataset.split.seed``.
    """
    if number <= most:
        return list(range(number))
    return sorted(random.Random(seed).sample(range(number), most))  # noqa: S311 - no secret
