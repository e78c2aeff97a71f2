"""Decides whether what was measured is enough to publish. Pure."""

from __future__ import annotations

from finetune_api.v1alpha1.finetunejob import LOWER_IS_BETTER, Goal
from finetune_trainer.evaluate.intervals import Interval

SLACK = 1e-9
"""Scores are floats: 0.9 reached as 0.8999999999 is reached."""


def check_goal(goal: Goal | None, *, tuned: Interval, gain: Interval) -> tuple[bool | None, str]:
    """Compare the near end of each interval with what the goal asks.

    Args:
        goal: The job's goal.
        tuned: The tuned model's score of the goal's metric.
        gain: Tuned minus base of the same metric, paired.

    Returns:
        Whether all thresholds hold (None without a goal), and the comparison in words.
    """
    if goal is None:
        return None, "the job has no goal"
    checks: list[tuple[bool, str]] = []
    if goal.at_least is not None:
        met = tuned.low >= float(goal.at_least) - SLACK
        words = f"{_words(tuned, 'lower', tuned.low)} (goal: at least {goal.at_least})"
        checks.append((met, words))
    if goal.at_most is not None:
        met = tuned.high <= float(goal.at_most) + SLACK
        words = f"{_words(tuned, 'upper', tuned.high)} (goal: at most {goal.at_most})"
        checks.append((met, words))
    if goal.over_base is not None:
        better = gain
        if goal.metric in LOWER_IS_BETTER:
            better = Interval(value=-gain.value, low=-gain.high, high=-gain.low)
        met = better.low >= float(goal.over_base) - SLACK
        words = f"{better.value:+.3f} over base, lower bound {better.low:+.3f}"
        checks.append((met, f"{words} (goal: at least {goal.over_base})"))
    words = ", ".join(("" if passed else "MISSED ") + text for passed, text in checks)
    return all(passed for passed, _ in checks), f"{goal.metric} {words}"


def check_evidence(
    met: bool | None, words: str, *, num_prompts: int, min_prompts: int
) -> tuple[bool | None, str]:
    """Withhold a verdict that rests on too few questions, whatever the scores say.

    Args:
        met: What the goal's check said; None without a goal.
        words: Its words.
        num_prompts: Distinct held-out prompts that were answered.
        min_prompts: ``evaluation.minPrompts``.

    Returns:
        The verdict and its words; False when there are too few prompts.
    """
    if num_prompts >= min_prompts:
        return met, words
    return False, (
        f"MISSED {num_prompts} distinct held-out prompt(s), evaluation.minPrompts asks for "
        f"{min_prompts}; {words}"
    )


def _words(interval: Interval, name: str, bound: float) -> str:
    return f"{interval.value:.3f}, {name} bound {bound:.3f}"
