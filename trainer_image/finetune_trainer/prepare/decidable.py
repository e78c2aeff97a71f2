"""Refuses a goal that the held-out side could not show, whatever is trained."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from finetune_api.v1alpha1.finetunejob import FineTuneJobSpec
from finetune_api.v1alpha1.judging import most_scored
from finetune_api.v1alpha1.scoring import JUDGE_METRICS, LOWER_IS_BETTER
from finetune_trainer.data.label_text import is_short_label, normalize_label
from finetune_trainer.data.rows import Side, group_of
from finetune_trainer.errors import DataError
from finetune_trainer.prepare.labels import count_labels
from finetune_trainer.statistics.bounded import lowest_bound_of_best
from finetune_trainer.statistics.needed import (
    count_for_best,
    count_for_gain,
    count_of_gains,
    highest_gain_bound,
)

LABEL_METRICS = ("exactMatch", "macroF1")
REASON = "GoalUndecidable"
ADD = "add examples, raise dataset.split.testPercent, give a source with side: Test"


def require_decidable_goal(spec: FineTuneJobSpec, folder: Path) -> None:
    """Refuse a goal that the held-out side could not show with every answer right.

    Args:
        spec: The job's spec.
        folder: The prepared data set.

    Raises:
        DataError: The bound of a perfect score misses the goal.
    """
    goal = spec.goal
    if goal is None or goal.metric in LOWER_IS_BETTER:
        return  # a loss has no best value that would bound it
    certainty = float(goal.certainty)
    if goal.at_least is not None:
        wanted = count_for_best(float(goal.at_least), certainty)
        field = f"goal.atLeast {goal.at_least}"
        _require_groups(spec, folder, field, wanted, lowest_bound_of_best)
    if goal.over_base is not None:
        wanted = count_for_gain(float(goal.over_base), certainty)
        field = f"goal.overBase {goal.over_base}"
        _require_groups(spec, folder, field, wanted, highest_gain_bound)
    if goal.metric in LABEL_METRICS:
        _require_other_labels(goal.metric, goal.certainty, folder)


def _require_groups(
    spec: FineTuneJobSpec,
    folder: Path,
    field: str,
    wanted: int | None,
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
    most = most_scored(spec.evaluation, spec.goal.metric)
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
    with (folder / f"{Side.TEST}.jsonl").open(encoding="utf-8") as rows:
        for row in map(json.loads, rows):
            if row.get("label") is not False and "text" not in row:
                groups.add(group_of(row))
            if len(groups) >= enough:
                break
    return len(groups)


def _require_other_labels(metric: str, certainty: str, folder: Path) -> None:
    """Refuse labels of which nearly all are alike: a model must be better than always giving it."""
    with (folder / f"{Side.TEST}.jsonl").open(encoding="utf-8") as rows:
        labels = count_labels({Side.TEST: map(json.loads, rows)}).counts
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
