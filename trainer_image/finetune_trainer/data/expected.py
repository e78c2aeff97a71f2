"""The questions for a model, estimated from a data set's report. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from finetune_api.protocol.trainer import ResolvedJob
from finetune_api.v1alpha1.evaluation.scoring import READ_METRICS
from finetune_trainer.data.asking import most_asked
from finetune_trainer.data.report import DatasetReport
from finetune_trainer.data.rows import Side
from finetune_trainer.planning.answering import MAX_AUTO_TOKENS, reasoning_tokens

LABEL_TOKENS = 12
"""Longest answer of a batch where answers are labels."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Questions:
    """The questions that a model answers.

    ``answer_tokens`` is about the longest answer of a batch; 0 without answers.
    """

    number: int
    prompt_tokens: float
    answer_tokens: float


NOTHING_ASKED = Questions(number=0, prompt_tokens=1.0, answer_tokens=0.0)


def expect_held_out(
    job: ResolvedJob, report: DatasetReport, *, chosen: int | None = None, may_reason: bool = False
) -> Questions:
    """Return the questions of the held-out side; the length of answers is estimated.

    ``chosen`` is the number that ``prepare`` chose, where the job leaves it open.
    """
    most = most_asked(job.spec.evaluation, chosen)
    number = min(most, report.rows.test)
    return _expect(job, report, Side.TEST, number=number, may_reason=may_reason)


def expect_validation(
    job: ResolvedJob, report: DatasetReport, *, may_reason: bool = False
) -> Questions:
    """Return the questions of the validation side; arguments as in :func:`expect_held_out`."""
    scoring = job.spec.evaluation.validation
    if scoring is None:
        return NOTHING_ASKED
    number = min(scoring.max_samples, report.rows.validation)
    # Scoring references needs no reasoning.
    may_reason = may_reason and scoring.metric not in READ_METRICS
    found = _expect(job, report, Side.VALIDATION, number=number, may_reason=may_reason)
    return as_scored_by(scoring.metric, found)


def as_scored_by(metric: str, questions: Questions) -> Questions:
    """Return the questions for a metric; some metrics score references instead of answers."""
    if metric not in READ_METRICS:
        return questions
    read = questions.prompt_tokens + questions.answer_tokens
    return Questions(number=questions.number, prompt_tokens=read, answer_tokens=0.0)


def _expect(
    job: ResolvedJob, report: DatasetReport, side: Side, *, number: int, may_reason: bool
) -> Questions:
    sides = report.tokens_of(job.spec.model)
    lengths = sides.get(side) or sides[Side.TRAIN]
    asked = job.spec.evaluation.max_new_tokens
    answer: float = min(MAX_AUTO_TOKENS, lengths.p95 / 2)
    if isinstance(asked, int):
        answer = asked
    elif report.labels:
        answer = LABEL_TOKENS
    mean = lengths.tokens / max(1, lengths.rows)
    return Questions(
        number=number,
        prompt_tokens=max(1.0, mean - min(answer, mean / 2)),
        answer_tokens=answer + reasoning_tokens(asked, may_reason=may_reason),
    )
