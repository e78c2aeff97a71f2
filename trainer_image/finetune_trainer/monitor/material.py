"""Rows of a reference from what a version leaves in storage: its data set and evaluation. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import orjson

from finetune_trainer.data.rows import group_of, prompt_of
from finetune_trainer.monitor.reference import ReferenceRow
from finetune_trainer.monitor.signals import Answered
from finetune_trainer.monitor.users import texts_of_user


def rows_of_training(rows: Iterable[Mapping[str, Any]]) -> list[ReferenceRow]:
    """Return the prompts of training rows, as a prepared data set has them.

    Their answers are people's, not the model's, and are not compared. Plain text has no prompt.
    """
    return [
        ReferenceRow(
            answered=Answered(prompt=_text(prompt_of(dict(row))), answer=None),
            group=group_of(dict(row)),
        )
        for row in rows
        if "text" not in row
    ]


def rows_of_evaluation(lines: Iterable[bytes]) -> list[ReferenceRow]:
    """Return the tuned model's answers, from the lines of an evaluation's ``samples.jsonl``.

    Raises:
        ValueError: A line is no sample; the message names the line.
    """
    found = []
    for number, line in enumerate(lines, start=1):
        try:
            value = orjson.loads(line)
            answer, group = str(value["tuned"]), str(value["group"])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"line {number} of samples.jsonl is no sample: {error!r}. Evaluate the job again"
            ) from None
        # Prompts come from training: a held-out row would count a prompt's words once more.
        found.append(
            ReferenceRow(
                answered=Answered(prompt=None, answer=answer or None), group=group or str(number)
            )
        )
    return found


def _text(prompt: object) -> str:
    if isinstance(prompt, str):
        return prompt
    messages = prompt if isinstance(prompt, list) else []
    return "\n".join(texts_of_user(messages))
