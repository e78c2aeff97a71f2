"""Refuses a goal that the held-out side could not show, whatever is trained.

Only what is certain is refused. Hits and misses have a best case, every answer right, whose bound
is known. Scores between them (ROUGE-L, a rubric) may all be alike, and their bound is then as near
to the score as one likes: what is refused there is fewer rows than any such bound takes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

from finetune_api.v1alpha1.finetunejob import FineTuneJobSpec
from finetune_api.v1alpha1.judging import most_scored
from finetune_api.v1alpha1.scoring import (
    CORPUS_METRICS,
    GRADED_METRICS,
    JUDGE_METRICS,
    LOWER_IS_BETTER,
)
from finetune_trainer.data.asking import question_of
from finetune_trainer.data.label_text import is_short_label, normalize_label
from finetune_trainer.data.rows import Side, group_of
from finetune_trainer.errors import DataError
from finetune_trainer.prepare.held_out import read_rows
from finetune_trainer.prepare.labels import count_labels
from finetune_trainer.statistics.bounded import lowest_bound_of_best
from finetune_trainer.statistics.needed import (
    Scale,
    count_for_best,
    count_for_gain,
    count_of_gains,
    highest_gain_bound,
)

LABEL_METRICS = ("exactMatch", "macroF1")
REASON = "GoalUndecidable"
ADD = "add examples, raise dataset.split.testPercent, give a source with side: Test"


def require_decidable_goal(spec: FineTuneJobSpec, folder: Path, *, num_questions: int) -> None:
    """Refuse a goal that the held-out side could not show with the best of answers.

    Args:
        spec: The job's spec.
        folder: The prepared data set.
        num_questions: Held-out questions that are asked at most.

    Raises:
        DataError: The bound of the best scores misses the goal.
    """
    goal = spec.goal
    if goal is None or goal.metric in LOWER_IS_BETTER:
        return  # a loss has no best value that would bound it
    certainty, scale = float(goal.certainty), scale_of(goal.metric, folder)
    most = most_scored(spec.evaluation, goal.metric, num_questions)
    if goal.at_least is not None:
        wanted = count_for_best(float(goal.at_least), certainty, scale)
        field = f"goal.atLeast {goal.at_least}"
        _require_groups(spec, folder, field, wanted, most, lowest_bound_of_best)
    if goal.over_base is not None:
        wanted = count_for_gain(float(goal.over_base), certainty, scale)
        field = f"goal.overBase {goal.over_base}"
        bound_of = partial(highest_gain_bound, scale=scale)
        _require_groups(spec, folder, field, wanted, most, bound_of)
    if goal.metric in LABEL_METRICS:
        _require_other_labels(goal.metric, goal.certainty, folder)


def scale_of(metric: str, folder: Path) -> Scale:
    """Return what is known of the scores of a metric between 0 and 1 before there are any.

    Args:
        metric: The metric.
        folder: The prepared data set.
    """
    is_graded = metric in GRADED_METRICS or (
        metric == "preferenceAccuracy" and _has_repeated_questions(folder)
    )
    return Scale(may_be_graded=is_graded, is_mean=metric not in CORPUS_METRICS)


def _has_repeated_questions(folder: Path) -> bool:
    seen: set[str] = set()
    for row in read_rows(folder):
        question = question_of(row)
        if question in seen:
            return True
        seen.add(question)
    return False


def _require_groups(
    spec: FineTuneJobSpec,
    folder: Path,
    field: str,
    wanted: int | None,
    most: int,
    bound_of: Callable[[int, float], float],
) -> None:
    if wanted is None:
        raise DataError(
            REASON,
            f"{field} cannot be shown by any number of held-out prompts, not even with every "
            "answer right: lower it",
        )
    assert spec.goal is not None
    there = _count_groups(folder, enough=wanted)
    if min(there, most) >= wanted:
        return
    is_judged = spec.goal.metric in JUDGE_METRICS
    raise_most = "evaluation.judge.sample and maxCalls" if is_judged else "evaluation.maxSamples"
    remedy = f"raise {raise_most} from {most}" if there >= wanted else ADD
    certainty = spec.goal.certainty
    number = min(there, most)
    raise DataError(
        REASON,
        f"{field} cannot be met on {number} independent held-out prompt(s): with every answer "
        f"right, and none of the base model's, its lower bound would be "
        f"{bound_of(number, float(certainty)):.3f} (goal.certainty {certainty}). {wanted} are the "
        f"least that could decide it: {remedy}, or lower the goal or its certainty",
    )


def _count_groups(folder: Path, *, enough: int) -> int:
    """Count the groups of held-out rows that have an answer, as the evaluation will."""
    groups: set[str] = set()
    for row in read_rows(folder):
        if row.get("label") is not False and "text" not in row:
            groups.add(group_of(row))
        if len(groups) >= enough:
            break
    return len(groups)


def _require_other_labels(metric: str, certainty: str, folder: Path) -> None:
    """Refuse labels of which nearly all are alike: a model must be better than always giving it."""
    labels = count_labels({Side.TEST: read_rows(folder)}).counts
    if not labels or not all(is_short_label(label.label) for label in labels):
        return
    counts: Counter[str] = Counter()
    for label in labels:
        counts[normalize_label(label.label)] += label.test
    number = counts.total()
    others = number - max(counts.values())
    least = count_of_gains(float(certainty))
    if others >= least:
        return
    raise DataError(
        REASON,
        f"goal.metric {metric} cannot be met: {others} of {number} held-out rows have another "
        "label than the most frequent one, and a model must be better than always giving that; "
        f"{least} are the least that could show it (goal.certainty {certainty}): {ADD}",
    )
