"""What is watched of an answer: each signal turns a prompt and its answer into one number. Pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import orjson

from finetune_trainer.data.answers.label_text import is_short_label, normalize_label
from finetune_trainer.evaluate.metrics.refusal import is_refusal
from finetune_trainer.monitor.vocabulary import count_words

LONGEST_LOG2 = 16.0
"""Texts of 65,536 characters and more are equally long."""
MAX_LABELS = 10
LEAST_LABELLED = 0.9
"""Share of a reference's answers that are labels, from which on shares of labels are watched."""
LENGTH_TOLERANCE = 0.02
"""Of a mean length: texts a quarter longer (``2 ** (16 * 0.02)``)."""
SHARE_TOLERANCE = 0.02
RARE_TOLERANCE = 0.005
"""Of a share that is to be near 0."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Answered:
    """A prompt and its answer, of the reference or of the traffic.

    Attributes:
        prompt: All texts of the user, a line each.
        answer: None if there is no text: an error, or calls of tools alone.
    """

    prompt: str
    answer: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Signal:
    """Something that is watched.

    Attributes:
        name: As the endpoint's status has it.
        measure: Returns a number from 0 to 1, or None where the signal does not apply.
        tolerance: Change of the mean that is no drift.
        is_fitted: It was made from a part of the reference, which says nothing about its mean.
    """

    name: str
    measure: Callable[[Answered], float | None]
    tolerance: float
    is_fitted: bool = False


def fit_signals(rows: Sequence[Answered]) -> list[Signal]:
    """Return the signals to watch, made from a part of the reference."""
    signals = [
        Signal(name="PromptLength", measure=lambda a: length(a.prompt), tolerance=LENGTH_TOLERANCE),
        _vocabulary(rows),
    ]
    answers = [row.answer for row in rows if row.answer is not None]
    if not answers:
        return signals
    signals += [
        Signal(
            name="AnswerLength",
            measure=lambda a: None if a.answer is None else length(a.answer),
            tolerance=LENGTH_TOLERANCE,
        ),
        Signal(
            name="Refusals",
            measure=lambda a: None if a.answer is None else float(is_refusal(a.answer)),
            tolerance=RARE_TOLERANCE,
        ),
    ]
    if any(map(is_json, answers)):
        signals.append(
            Signal(
                name="Json",
                measure=lambda a: None if a.answer is None else float(is_json(a.answer)),
                tolerance=RARE_TOLERANCE,
            )
        )
    return signals + _labels(answers)


def length(text: str) -> float:
    """Return the length of a text on a logarithmic scale from 0 to 1."""
    return min(1.0, math.log2(1 + len(text)) / LONGEST_LOG2)


def is_json(text: str) -> bool:
    """Tell whether an answer is a JSON object or array."""
    try:
        return isinstance(orjson.loads(text), dict | list)
    except ValueError:
        return False


def _vocabulary(rows: Sequence[Answered]) -> Signal:
    vocabulary = count_words(row.prompt for row in rows)
    return Signal(
        name="Vocabulary",
        measure=lambda a: vocabulary.surprise(a.prompt),
        tolerance=SHARE_TOLERANCE,
        is_fitted=True,
    )


def _labels(answers: Sequence[str]) -> list[Signal]:
    counts = Counter(normalize_label(answer) for answer in answers if is_short_label(answer))
    repeated = {label: number for label, number in counts.items() if number > 1}
    if sum(repeated.values()) < LEAST_LABELLED * len(answers):
        return []
    # Sorted first, so that labels that are equally frequent have an order.
    common = sorted(sorted(repeated), key=lambda label: -repeated[label])[:MAX_LABELS]
    return [_label(label) for label in common]


def _label(label: str) -> Signal:
    return Signal(
        name=f"Label/{label}",
        measure=lambda a: None if a.answer is None else float(normalize_label(a.answer) == label),
        tolerance=SHARE_TOLERANCE,
        is_fitted=True,
    )
