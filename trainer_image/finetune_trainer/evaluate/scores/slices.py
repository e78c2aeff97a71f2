"""Parts of a comparison: what a gate looks at, and what a report divides. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from finetune_api.v1alpha1.evaluation.gates import GateSlice
from finetune_trainer.data.held_out import is_row_inside
from finetune_trainer.evaluate.comparison import Comparison
from finetune_trainer.evaluate.metrics.answers import Answers
from finetune_trainer.evaluate.metrics.labels import normalize_label
from finetune_trainer.evaluate.questions import Question


def _is_inside(question: Question, part: GateSlice) -> bool:
    """Return whether a question belongs to a slice."""
    if part.label is not None:
        label = normalize_label(part.label)
        return any(normalize_label(reference) == label for reference in question.references)
    return any(is_row_inside(row, part) for row in question.rows)


def take_slice(comparison: Comparison, part: GateSlice | None) -> Comparison:
    """Return what both models said to the questions of a slice; all of it without one."""
    if part is None:
        return comparison
    return take_questions(comparison, [_is_inside(each, part) for each in comparison.questions])


def take_judged(comparison: Comparison, metric: str) -> tuple[Comparison, list[int]]:
    """Return what both models said to the questions that a judge gave something for.

    Args:
        comparison: What both models said.
        metric: The judge's metric.

    Returns:
        That, and the places of these questions among those that were asked.
    """
    assert comparison.tuned.judged is not None
    is_judged = np.isfinite(comparison.tuned.judged[metric]).tolist()
    chosen = iter(is_judged)
    inside = [question.prompt is not None and next(chosen) for question in comparison.questions]
    return take_questions(comparison, inside), np.flatnonzero(is_judged).tolist()


def take_questions(comparison: Comparison, inside: Sequence[bool]) -> Comparison:
    """Return what both models said to some of the questions.

    Args:
        comparison: What they said to all.
        inside: Of each question whether it is taken.
    """
    asked = [
        chosen
        for question, chosen in zip(comparison.questions, inside, strict=True)
        if question.prompt is not None
    ]
    prompted, likelihood = comparison.prompted, comparison.likelihood
    published = comparison.published
    return replace(
        comparison,
        questions=[q for q, chosen in zip(comparison.questions, inside, strict=True) if chosen],
        base=_take(comparison.base, inside, asked),
        tuned=_take(comparison.tuned, inside, asked),
        prompted=_take(prompted, inside, asked) if prompted else None,
        likelihood=_take(likelihood, inside, asked) if likelihood else None,
        published=_take(published, inside, asked) if published else None,
    )


def _take(said: Answers, inside: Sequence[bool], asked: Sequence[bool]) -> Answers:
    rows, answers = np.flatnonzero(inside), np.flatnonzero(asked)
    return Answers(
        texts=[said.texts[int(i)] for i in answers],
        nll_sums=said.nll_sums[rows],
        num_tokens=said.num_tokens[rows],
        preferred=None if said.preferred is None else said.preferred[rows],
        num_bytes=None if said.num_bytes is None else said.num_bytes[rows],
        seconds=None if said.seconds is None else said.seconds[answers],
        judged=None
        if said.judged is None
        else {name: scores[answers] for name, scores in said.judged.items()},
    )
