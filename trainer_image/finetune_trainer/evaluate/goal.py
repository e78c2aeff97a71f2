"""Decides whether a goal is met. Pure."""

from __future__ import annotations

from finetune_api.v1alpha1.finetunejob import LOWER_IS_BETTER, Goal

SLACK = 1e-9
"""Scores are floats: 0.9 reached as 0.8999999999 is reached."""


def check_goal(goal: Goal | None, *, base: float, tuned: float) -> tuple[bool | None, str]:
    """Compare the scores of the goal's metric with its thresholds.

    Returns:
        Whether all thresholds hold (None without a goal), and the comparison in words.
    """
    if goal is None:
        return None, "the job has no goal"
    checks: list[tuple[bool, str]] = []
    if goal.at_least is not None:
        bound = float(goal.at_least)
        checks.append((tuned >= bound - SLACK, f"{tuned:.3f} (goal: at least {goal.at_least})"))
    if goal.at_most is not None:
        bound = float(goal.at_most)
        checks.append((tuned <= bound + SLACK, f"{tuned:.3f} (goal: at most {goal.at_most})"))
    if goal.over_base is not None:
        bound = float(goal.over_base)
        gain = base - tuned if goal.metric in LOWER_IS_BETTER else tuned - base
        checks.append(
            (gain >= bound - SLACK, f"{gain:+.3f} over base (goal: at least {goal.over_base})")
        )
    met = all(passed for passed, _ in checks)
    words = ", ".join(("" if passed else "MISSED ") + text for passed, text in checks)
    return met, f"{goal.metric} {words}"
