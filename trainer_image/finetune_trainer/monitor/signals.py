"""What is watched of an answer: each signal turns a prompt and its answer into one number. Pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import orjson

from finetune_trainer.data.answers.label_text import is_short_label, normalize_label
from finetune_trainer.evaluate.metrics.refusal import is_refusal
from finetune_trainer.monitor.kinds import format_of, language_of
from finetune_trainer.monitor.vocabulary import count_words

LONGEST_LOG2 = 16.0
"""Texts of 65,536 characters and more are equally long."""
MEASURES = 1
"""To be raised whenever the number of any signal changes for the same text: references of another
number are gathered anew."""
MAX_LABELS = 10
MAX_KINDS = 3
"""Languages and forms of answers that are watched: with others, shares of these fall."""
LEAST_LABELLED = 0.9
"""Share of the evaluation's answers that are labels, from which on their shares are watched."""
LENGTH_TOLERANCE = 0.02
"""Of a mean length: texts a quarter longer (``2 ** (16 * 0.02)``)."""
SHARE_TOLERANCE = 0.02
RARE_TOLERANCE = 0.005
"""Of a share that is to be near 0."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Answered:
    """A prompt and its answer, of the training, the evaluation or the traffic.

    Attributes:
        prompt: The last text of the user; None where it is not to be compared.
        answer: The model's; None if it has no text: an error, or calls of tools alone.
        is_error: The model gave no whole answer.
        is_down: Somebody has marked it as bad.
    """

    prompt: str | None
    answer: str | None
    is_error: bool = False
    is_down: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Signal:
    """Something that is watched.

    Attributes:
        name: As the endpoint's status has it; behind a slash, which part of it.
        measure: Returns a number from 0 to 1, or None where the signal does not apply.
        tolerance: Change of the mean that is no drift.
    """

    name: str
    measure: Callable[[Answered], float | None]
    tolerance: float


def signal_of(name: str) -> str:
    """Return the signal that a part belongs to: ``Labels`` for ``Labels/good``."""
    return name.partition("/")[0]


def fit_signals(
    rows: Sequence[Answered], names: Collection[str] | None = None
) -> Mapping[str, Signal]:
    """Return the signals to watch by name: rows say which words, labels and forms are known.

    Args:
        rows: Prompts of the training and answers of the evaluation.
        names: Signals to watch, as the endpoint's status names them; by default all.
    """
    prompts = [row.prompt for row in rows if row.prompt is not None]
    answers = [row.answer for row in rows if row.answer is not None]
    signals = [_ERRORS, _THUMBS_DOWN]
    if prompts:
        signals += [_PROMPT_LENGTH, _vocabulary(prompts), *_languages(prompts)]
    if answers:
        labels = _labels(answers)
        signals += [_ANSWER_LENGTH, _REFUSALS, *(labels or _formats(answers))]
    if any(map(is_json, answers)):
        signals.append(_INVALID_JSON)
    return {each.name: each for each in signals if names is None or signal_of(each.name) in names}


def length(text: str) -> float:
    """Return the length of a text on a logarithmic scale from 0 to 1."""
    return min(1.0, math.log2(1 + len(text)) / LONGEST_LOG2)


def is_json(text: str) -> bool:
    """Tell whether an answer is a JSON object or array."""
    try:
        return isinstance(orjson.loads(text), dict | list)
    except ValueError:
        return False


def _of_answer(name: str, measure: Callable[[str], float], tolerance: float) -> Signal:
    return Signal(
        name=name,
        measure=lambda a: None if a.answer is None else measure(a.answer),
        tolerance=tolerance,
    )


_PROMPT_LENGTH = Signal(
    name="PromptLength",
    measure=lambda a: None if a.prompt is None else length(a.prompt),
    tolerance=LENGTH_TOLERANCE,
)
_ANSWER_LENGTH = _of_answer("AnswerLength", length, LENGTH_TOLERANCE)
_REFUSALS = _of_answer("Refusals", lambda text: float(is_refusal(text)), RARE_TOLERANCE)
_INVALID_JSON = _of_answer("InvalidJson", lambda text: float(not is_json(text)), RARE_TOLERANCE)
_ERRORS = Signal(name="Errors", measure=lambda a: float(a.is_error), tolerance=RARE_TOLERANCE)
_THUMBS_DOWN = Signal(
    name="ThumbsDown", measure=lambda a: float(a.is_down), tolerance=SHARE_TOLERANCE
)


def _vocabulary(prompts: Sequence[str]) -> Signal:
    vocabulary = count_words(prompts)
    return Signal(
        name="Vocabulary",
        measure=lambda a: None if a.prompt is None else vocabulary.surprise(a.prompt),
        tolerance=SHARE_TOLERANCE,
    )


def _languages(prompts: Sequence[str]) -> list[Signal]:
    def share(language: str) -> Signal:
        def measure(answered: Answered) -> float | None:
            found = None if answered.prompt is None else language_of(answered.prompt)
            return None if found is None else float(found == language)

        return Signal(name=f"Language/{language}", measure=measure, tolerance=SHARE_TOLERANCE)

    return [share(kind) for kind in _most_common(map(language_of, prompts), MAX_KINDS)]


def _formats(answers: Sequence[str]) -> list[Signal]:
    def share(form: str) -> Signal:
        return _of_answer(
            f"Format/{form}",
            lambda text: float(format_of(text) == form),
            SHARE_TOLERANCE,
        )

    return [share(kind) for kind in _most_common(map(format_of, answers), MAX_KINDS)]


def _most_common(kinds: Iterable[str | None], number: int) -> list[str]:
    counts = Counter(kind for kind in kinds if kind is not None)
    # Sorted first, so that kinds that are equally frequent have an order.
    return sorted(sorted(counts), key=lambda kind: -counts[kind])[:number]


def _labels(answers: Sequence[str]) -> list[Signal]:
    counts = Counter(normalize_label(answer) for answer in answers if is_short_label(answer))
    repeated = {label: number for label, number in counts.items() if number > 1}
    if sum(repeated.values()) < LEAST_LABELLED * len(answers):
        return []
    return [_label(label) for label in _most_common(Counter(repeated).elements(), MAX_LABELS)]


def _label(label: str) -> Signal:
    return _of_answer(
        f"Labels/{label}",
        lambda text: float(normalize_label(text) == label),
        SHARE_TOLERANCE,
    )
