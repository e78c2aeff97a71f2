"""How likely a model that is truly good meets all that a goal asks, by the verdict's bounds. Pure.

Each part of a goal is the likelier met the more answers of the tuned model are right, and the fewer
of the base and of the constant answer. So the chance of meeting all parts is at least the product
of their chances.

Source: Harris 1960, "A lower bound for the critical probability in a certain percolation process":
what rises with independent things together is no less likely together than apart.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from finetune_api.v1alpha1.evaluation.judging import most_scored
from finetune_api.v1alpha1.evaluation.scoring import (
    ANSWER_METRICS,
    FORM_METRICS,
    GRADED_METRICS,
    UNBOUNDED_METRICS,
)
from finetune_api.v1alpha1.evaluation.spec import DEFAULT_SAMPLES, Goal
from finetune_api.v1alpha1.finetunejob import FineTuneJobSpec
from finetune_trainer.statistics.confidence import LEAST_OVER, tail_of
from finetune_trainer.statistics.power import POWER, chance_of_gain, chance_of_share, count_for
from finetune_trainer.verdict.hypotheses import Hypothesis, of_goal

MOST = 100_000
"""Prompts that are asked at most."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Supposed:
    """The goal's bounds, and the true scores of the models that are compared.

    Attributes:
        asked: What the goal asks, of a metric between 0 and 1.
        tail: Probability with which a bound may be wrong.
        truth: True score of the tuned model.
        base: That of the base.
        constant: That of the best answer that stays the same; None where none is compared.
        unevenness: How many times the prompts of hits and misses the score takes.
    """

    asked: Sequence[Hypothesis]
    tail: float
    truth: float
    base: float
    constant: float | None
    unevenness: float = 1.0


def suppose(goal: Goal, *, constant: float | None, unevenness: float = 1.0) -> Supposed | None:
    """Return a model halfway from the highest threshold to the best score, and a base for it.

    The base is halfway from the best one that still lets the model meet ``overBase`` down to 0.

    Args:
        goal: The goal, of a metric between 0 and 1.
        constant: As in :class:`Supposed`.
        unevenness: The same.

    Returns:
        That; None where no score is better than what is asked.
    """
    asked = of_goal(goal)
    highest = max([0.0, constant or 0.0, *(each.least for each in asked)])
    if highest >= 1:
        return None
    truth = (1 + highest) / 2
    gain = sum(each.least for each in asked if each.is_gain)
    return Supposed(
        asked=asked,
        tail=tail_of(float(goal.certainty)),
        truth=truth,
        base=max(0.0, truth - gain) / 2,
        constant=constant,
        unevenness=unevenness,
    )


def chance_of_goal(supposed: Supposed, number: int) -> float:
    """Return how likely the model meets all that is asked, at least.

    Args:
        supposed: What is asked, and of whom.
        number: Independent prompts.
    """
    return math.prod(_chances(supposed, math.floor(number / supposed.unevenness)))


def count_for_goal(supposed: Supposed, power: float = POWER) -> int | None:
    """Return from about how many independent prompts on that is likely.

    Args:
        supposed: What is asked, and of whom.
        power: How likely, at least.

    Returns:
        The number; None where 100,000 are not enough.
    """
    number = count_for(partial(chance_of_goal, supposed), power, most=MOST)
    return number if number <= MOST else None


def _chances(supposed: Supposed, number: int) -> Iterator[float]:
    truth, tail = supposed.truth, supposed.tail
    gains = [(each.least, supposed.base) for each in supposed.asked if each.is_gain]
    gains += [] if supposed.constant is None else [(LEAST_OVER, supposed.constant)]
    for each in supposed.asked:
        if not each.is_gain:
            yield chance_of_share(number, each.least, truth, tail)
    for least, base in gains:
        yield chance_of_gain(number, least, truth * (1 - base), base * (1 - truth), tail)


def describe_power(
    goal: Goal,
    number: int,
    *,
    constant: float | None = None,
    is_known: bool = True,
    unevenness: float = 1.0,
) -> str:
    """Say how often a good model meets a goal on so many prompts, and how many are enough.

    Args:
        goal: The goal.
        number: Independent prompts that its metric is measured on.
        constant: What the best answer that stays the same scores; None where none is compared.
        is_known: Whether that was measured.
        unevenness: As in :class:`Supposed`.

    Returns:
        A sentence; nothing for a loss, of which it is not known how much it varies.
    """
    if goal.metric in UNBOUNDED_METRICS or number < 1:
        return ""
    supposed = suppose(goal, constant=constant, unevenness=unevenness)
    words = _word_asked(goal, supposed, is_known)
    if supposed is None:
        return f"goal: no model meets {goal.metric} {words}"
    enough = count_for_goal(supposed)
    more = f"{enough:,} prompts make it" if enough else f"more than {MOST:,} prompts would make it"
    has_several = words.count(",") + words.count(" and ") > 0
    least = "at least " if has_several or goal.metric in GRADED_METRICS else ""
    percent = math.floor(100 * chance_of_goal(supposed, number))
    head = "goal" if percent >= 50 else f"goal too high for {number:,} test rows"
    return (
        f"{head}: with {number:,} independent prompts, a model truly at {supposed.truth:.3g} meets "
        f"{goal.metric} {words} in {least}{percent} % of runs; {more} {100 * POWER:g} %"
    )


def describe_power_without_data(spec: FineTuneJobSpec) -> str:
    """Say the same of the most prompts that a job asks, and how many rows hold out as many.

    Args:
        spec: The job's spec.
    """
    goal, most = spec.goal, spec.evaluation.max_samples
    if goal is None:
        return ""
    most = DEFAULT_SAMPLES if most == "auto" else most
    has_constant = goal.metric in ANSWER_METRICS - FORM_METRICS
    number = most_scored(spec.evaluation, goal.metric, most)
    words = describe_power(goal, number, constant=0.0 if has_constant else None, is_known=False)
    percent = spec.dataset.split.test_percent
    if not words or not percent:
        return words
    return (
        f"goal, if {math.ceil(100 * most / percent):,} rows give {most:,} prompts (testPercent "
        f"{percent}; --data counts your rows): {words.removeprefix('goal: ')}"
    )


def _word_asked(goal: Goal, supposed: Supposed | None, is_known: bool) -> str:
    words = []
    for each in of_goal(goal):
        base = f" (base truly at {supposed.base:.3g})" if supposed and each.is_gain else ""
        words.append(f"{each.field} {each.bound}{base}")
    if supposed is None or supposed.constant is not None:
        figure = "taken to be at 0" if supposed and not is_known else "in the data"
        figure = f"truly at {supposed.constant:.3g}" if supposed and is_known else figure
        words.append(f"better than the best constant answer ({figure})")
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))
