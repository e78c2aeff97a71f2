"""What the best constant answer scores on held-out rows, before there is a model. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from finetune_api.v1alpha1.evaluation.scoring import ANSWER_METRICS, FORM_METRICS
from finetune_trainer.evaluate.metrics.catalog import Settings
from finetune_trainer.evaluate.questions import Question, group_questions
from finetune_trainer.evaluate.scores.comparing import value_over
from finetune_trainer.evaluate.scores.constants import (
    expect_at_random,
    find_best,
)


def foresee_constant(
    metric: str, asked: Sequence[Question], trained: Sequence[tuple[str, str]], settings: Settings
) -> float | None:
    """Return what a model must be better than by a metric.

    Args:
        metric: The metric.
        asked: The held-out questions that have a prompt.
        trained: Prompts and answers of the train side.
        settings: What the job tells metrics.

    Returns:
        The score; None for metrics that no constant is held against by themselves, and for the
        user's own, which is not run here.
    """
    if metric not in ANSWER_METRICS - FORM_METRICS - {"custom"} or not asked:
        return None
    best = find_best(metric, asked, trained=trained, settings=settings)
    scored = value_over(best[1], group_questions(asked)) if best else 0.0
    if metric != "macroF1":
        return scored
    return max(scored, expect_at_random([question.references for question in asked]))
