"""Refuses a goal that the held-out side could not show, whatever is trained.

Counted are the groups of the questions that are drawn, not all that are held out. Only what is
certain is refused: every metric between 0 and 1 has a best case, every answer right, whose bound
is known.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial

from finetune_api.v1alpha1.evaluation.judging import most_scored
from finetune_api.v1alpha1.evaluation.scoring import CORPUS_METRICS, JUDGE_METRICS, LOWER_IS_BETTER
from finetune_api.v1alpha1.finetunejob import FineTuneJobSpec
from finetune_trainer.data.answers.label_text import MAX_LABELS
from finetune_trainer.data.held_out import HeldOut, HeldOutSide
from finetune_trainer.errors import DataError
from finetune_trainer.statistics.confidence import SLACK
from finetune_trainer.statistics.needed import (
    Scale,
    count_for_best,
    count_for_gain,
    count_of_gains,
    highest_bound,
    highest_gain_bound,
)
from finetune_trainer.verdict.best_answers import best_confidence, is_uneven, word_groups
from finetune_trainer.verdict.remedies import ADD, MORE_GROUPS, word_more

LABEL_METRICS = ("exactMatch", "macroF1")
REASON = "GoalUndecidable"


def require_decidable_goal(spec: FineTuneJobSpec, side: HeldOutSide, *, num_questions: int) -> None:
    """Refuse a goal that the held-out side could not show with the best of answers.

    Args:
        spec: The job's spec.
        side: The held-out side.
        num_questions: Held-out questions that are asked at most.

    Raises:
        DataError: The bound of the best scores misses the goal, or its metric does not fit.
    """
    goal = spec.goal
    if goal is None or goal.metric in LOWER_IS_BETTER:
        return  # a loss has no best value that would bound it
    if goal.metric == "contains":
        _refuse_listed_labels(side, num_questions)
    certainty, scale = float(goal.certainty), scale_of(goal.metric)
    require = partial(_require_groups, spec, side, scale, num_questions)
    if goal.at_least is not None:
        wanted = count_for_best(float(goal.at_least), certainty, scale)
        require("atLeast", goal.at_least, wanted, partial(highest_bound, scale=scale))
    if goal.over_base is not None:
        wanted = count_for_gain(float(goal.over_base), certainty, scale)
        require("overBase", goal.over_base, wanted, partial(highest_gain_bound, scale=scale))
    if goal.metric in LABEL_METRICS:
        _require_other_labels(goal.metric, goal.certainty, side, num_questions)


def scale_of(metric: str) -> Scale:
    """Return what is known of the scores of a metric between 0 and 1 before there are any."""
    return Scale(is_mean=metric not in CORPUS_METRICS)


def has_prompt(question: HeldOut) -> bool:
    """Return whether models answer a question; all metrics but likelihoods look at these."""
    return question.has_prompt


def _require_groups(
    spec: FineTuneJobSpec,
    side: HeldOutSide,
    scale: Scale,
    num_questions: int,
    asked: str,
    threshold: str,
    wanted: int | None,
    bound_of: Callable[[int, float], float],
) -> None:
    assert spec.goal is not None
    field, certainty = f"goal.{asked} {threshold}", spec.goal.certainty
    if wanted is None:
        raise DataError(
            REASON,
            f"{field} cannot be shown by any number of held-out prompts, not even with every "
            "answer right: lower it",
        )
    metric, seed = spec.goal.metric, spec.dataset.split.seed

    def bound_at(groups: Counter[str]) -> float:
        best = best_confidence(groups.values(), scale, is_gain=asked == "overBase", seed=seed)
        return best.interval(float(certainty)).low

    def is_enough(groups: Counter[str]) -> bool:
        if metric in JUDGE_METRICS or not is_uneven(groups, scale):
            return True  # a judge is asked about some of them
        return bound_at(groups) >= float(threshold) - SLACK

    groups = side.groups(num_questions, has_prompt)
    number = most_scored(spec.evaluation, metric, len(groups))
    if number < wanted:
        at_most = " at most" if is_uneven(groups, scale) or not scale.is_mean else ""
        remedy = word_more(
            spec,
            side,
            metric,
            has_prompt,
            wanted=wanted,
            num_questions=num_questions,
            is_enough=is_enough,
        )
        raise DataError(
            REASON,
            f"{field} cannot be met on {number} independent held-out prompt(s): with every answer "
            f"right, and none of the base model's, its lower bound would be "
            f"{bound_of(number, float(certainty)):.3f}{at_most} (goal.certainty {certainty}). "
            f"{wanted} are the least that could decide it: {remedy}, or lower the goal or its "
            "certainty",
        )
    if is_enough(groups):
        return
    raise DataError(
        REASON,
        f"{field} cannot be met on {number} independent held-out prompt(s): {word_groups(groups)}, "
        "so that with every answer right, and none of the base model's, its lower bound would be "
        f"{bound_at(groups):.3f} (goal.certainty {certainty}): {MORE_GROUPS}, or lower the goal or "
        "its certainty",
    )


def _require_other_labels(
    metric: str, certainty: str, side: HeldOutSide, num_questions: int
) -> None:
    """Refuse labels of which nearly all are alike: a model must be better than always giving it."""
    counts = count_labels(side.drawn(num_questions))
    if not counts:
        return
    number = counts.total()
    others = number - max(counts.values())
    least = count_of_gains(float(certainty))
    if others >= least:
        return
    more = f", raise evaluation.maxSamples from {num_questions}"
    raise DataError(
        REASON,
        f"goal.metric {metric} cannot be met: {others} of {number} held-out rows have another "
        "label than the most frequent one, and a model must be better than always giving that; "
        f"{least} are the least that could show it (goal.certainty {certainty}): {ADD}"
        f"{more if num_questions < len(side.questions) else ''}",
    )


def _refuse_listed_labels(side: HeldOutSide, num_questions: int) -> None:
    """Refuse to look for a label in an answer: one that lists all labels has it."""
    counts = count_labels(side.drawn(num_questions))
    if not 1 < len(counts) <= MAX_LABELS:
        return
    raise DataError(
        "MetricUnsuitable",
        f"goal.metric contains does not fit: the held-out answers are {len(counts)} labels, and an "
        "answer that lists all of them contains the right one of each row. Use goal.metric "
        "exactMatch, or macroF1 for rare labels",
    )


def count_labels(questions: list[HeldOut]) -> Counter[bytes]:
    """Count the labels of questions that are answered; nothing where some answer is none."""
    counts: Counter[bytes] = Counter()
    for question in questions:
        if not question.has_prompt:
            continue
        if question.label is None:
            return Counter()
        counts[question.label] += 1
    return counts if 2 * len(counts) <= counts.total() else Counter()
