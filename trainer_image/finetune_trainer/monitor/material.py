"""Prompts and answers from what a version leaves in storage: its data set and evaluation. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import orjson

from finetune_trainer.data.rows import prompt_of
from finetune_trainer.monitor.signals import Answered
from finetune_trainer.monitor.users import texts_of_user


def rows_of_training(rows: Iterable[Mapping[str, Any]]) -> list[Answered]:
    """Return the prompts of training rows, as a prepared data set has them.

    Their answers are people's, not the model's. Plain text has no prompt.
    """
    return [
        Answered(prompt=_text(prompt_of(dict(row))), answer=None)
        for row in rows
        if "text" not in row
    ]


def rows_of_evaluation(lines: Iterable[bytes]) -> list[Answered]:
    """Return the tuned model's answers, from the lines of an evaluation's ``samples.jsonl``.

    Raises:
        ValueError: A line is no sample; the message names the line.
    """
    found = []
    for number, line in enumerate(lines, start=1):
        try:
            answer = str(orjson.loads(line)["tuned"])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"line {number} of samples.jsonl is no sample: {error!r}. Evaluate the job again"
            ) from None
        # Prompts come from training: a held-out row would count a prompt's words once more.
        found.append(Answered(prompt=None, answer=answer or None))
    return found


def _text(prompt: object) -> str:
    if isinstance(prompt, str):
        return prompt
    texts = texts_of_user(prompt) if isinstance(prompt, list) else []
    return texts[-1] if texts else ""
