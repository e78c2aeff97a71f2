"""What makes more held-out prompts be asked, in words. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from finetune_api.v1alpha1.evaluation.judging import most_scored
from finetune_api.v1alpha1.evaluation.spec import MOST_SAMPLES
from finetune_api.v1alpha1.finetunejob import FineTuneJobSpec
from finetune_trainer.data.held_out import HeldOutSide, IsSeen

ADD = "add examples, raise dataset.split.testPercent, give a source with side: Test"
MORE_GROUPS = "hold out rows of more groups, or fewer of the largest"
IsEnough = Callable[[Counter[str]], bool]
"""Tells whether questions, so many of each group, could show what is asked for."""


def word_more(
    spec: FineTuneJobSpec,
    side: HeldOutSide,
    metric: str,
    is_seen: IsSeen,
    *,
    wanted: int,
    num_questions: int,
    is_enough: IsEnough = lambda _: True,
) -> str:
    """Return how a metric gets the independent prompts that it wants.

    Args:
        spec: The job's spec.
        side: The held-out side.
        metric: The metric.
        is_seen: Which of the questions it looks at.
        wanted: Independent prompts.
        num_questions: Held-out questions that are asked at most.
        is_enough: Whether those that are held out could show it, were all of them asked.
    """
    enough = side.number_with(wanted, is_seen)
    if enough is None or enough > MOST_SAMPLES:
        return ADD
    if not is_enough(side.groups(MOST_SAMPLES, is_seen)):
        return MORE_GROUPS
    remedies = []
    if enough > num_questions:
        is_chosen = spec.evaluation.max_samples == "auto"
        remedies.append(
            f"set evaluation.maxSamples to {enough}, where auto chose {num_questions}"
            if is_chosen
            else f"raise evaluation.maxSamples from {num_questions} to {enough}"
        )
    judged = most_scored(spec.evaluation, metric, MOST_SAMPLES)
    if judged < wanted:
        remedies.append(f"raise evaluation.judge.sample and maxCalls from {judged}")
    return ", ".join(remedies)
