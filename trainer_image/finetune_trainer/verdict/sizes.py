"""How many independent held-out prompts each hypothesis of a job takes. Pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from finetune_api.v1alpha1.evaluation.judging import most_scored
from finetune_api.v1alpha1.evaluation.scoring import JUDGE_METRICS
from finetune_api.v1alpha1.evaluation.spec import Goal
from finetune_api.v1alpha1.finetunejob import FineTuneJobSpec
from finetune_trainer.data.held_out import HeldOut, IsSeen
from finetune_trainer.statistics.confidence import LEAST_OVER, tail_of
from finetune_trainer.statistics.power import (
    POWER,
    better_than,
    chance_of_gain,
    chance_of_share,
    count_for,
    tail_of_many,
    widest_gain,
)
from finetune_trainer.verdict.decidable import LABEL_METRICS, count_labels
from finetune_trainer.verdict.hypotheses import Hypothesis, of_blocking_gates, of_goal

OPPOSED = "judgeWinRate"
"""A win of the tuned model is a loss of the base: of the two scores one says the other."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Size:
    """The independent prompts that one hypothesis takes.

    Attributes:
        metric: What is measured.
        sees: Which held-out questions count for it.
        wanted: Independent prompts; None where that cannot be said.
        is_possible: Whether any number of prompts could show it.
        words: What it takes, or why that cannot be said.
    """

    metric: str
    sees: IsSeen
    wanted: int | None
    is_possible: bool = True
    words: str

    def most_judged(self, spec: FineTuneJobSpec) -> int:
        """Return how many of the wanted prompts it can have: a judge is asked only so many."""
        assert self.wanted is not None
        if self.metric not in JUDGE_METRICS:
            return self.wanted
        return most_scored(spec.evaluation, self.metric, self.wanted)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Supposed:
    """A hypothesis, and the true scores of models of which it should be found true.

    Attributes:
        hypothesis: What is asked.
        tail: Probability with which its bound may be wrong; None where no bound is that sure.
        before: True score of the model that a gain is over; None where no gain is asked.
        after: True score of the tuned model.
        name: Where the job asks for it, and what; empty if the hypothesis tells.
    """

    hypothesis: Hypothesis
    tail: float | None
    before: float | None
    after: float
    name: str = ""

    def chance(self, number: int) -> float:
        """Return how likely it is found true on so many independent prompts."""
        least, after, before, tail = self.hypothesis.least, self.after, self.before, self.tail
        assert tail is not None
        if before is None:
            return chance_of_share(number, least, after, tail)
        if self.hypothesis.metric == OPPOSED:
            return chance_of_gain(number, least, after, before, tail)
        return chance_of_gain(number, least, after * (1 - before), before * (1 - after), tail)

    @property
    def why_not(self) -> str:
        """Why its prompts cannot be counted."""
        if not self.hypothesis.is_bounded:
            return f"how much {self.hypothesis.metric} varies is not known before it is measured"
        if self.tail is None:
            return "so many gates at this certainty can be shown by no number of prompts"
        return "it can be shown by no number of prompts" if self.hypothesis.least >= 1 else ""

    @property
    def can_be_missed(self) -> bool:
        """Whether it is counted and some score misses it."""
        return not self.why_not and self.hypothesis.least > -float(self.hypothesis.is_gain)

    def size(self, questions: Sequence[HeldOut], power: float) -> Size:
        """Return the prompts that make it likely enough to be found true."""
        asked, place = self.hypothesis, self.name or self.hypothesis.place
        wanted, words = None, f"{place}: {self.why_not}"
        if not self.why_not:
            wanted = count_for(self.chance, power)
            if asked.metric == "macroF1":
                labels = count_labels([each for each in questions if asked.sees(each)])
                wanted = math.ceil(wanted * unevenness_of(labels))
            model = f"is at {1 - self.after if asked.field == 'atMost' else self.after:.4g}"
            if self.before is not None:
                model = f"gains {self.after - self.before:.4g}"
            words = (
                f"{place} takes {wanted:,} independent prompts, so that a model that {model} meets "
                f"all that is asked with {POWER * 100:g} % probability"
            )
        is_possible = wanted is not None or not asked.is_bounded
        return Size(
            metric=asked.metric,
            sees=asked.sees,
            wanted=wanted,
            is_possible=is_possible,
            words=words,
        )


def list_sizes(
    spec: FineTuneJobSpec, questions: Sequence[HeldOut], *, has_published: bool = True
) -> list[Size]:
    """Return what must hold before a job publishes, each with the prompts that it takes.

    All of it is to be found together with the probability :data:`POWER`, so each hypothesis may be
    missed by a part of what is left: the more of them, the more prompts each takes.

    Args:
        spec: The job's spec.
        questions: The held-out questions.
        has_published: Whether there is a version that ``overPublished`` compares with.

    Returns:
        The hypotheses on held-out rows; none where the job asks for nothing of them.
    """
    labels = count_labels([question for question in questions if question.has_prompt])
    supposed = [*_goal(spec.goal, labels), *_gates(spec, has_published=has_published)]
    sized = len({each.hypothesis.identity for each in supposed if each.can_be_missed})
    power = 1 - (1 - POWER) / max(1, sized)
    return [each.size(questions, power) for each in supposed]


def _goal(goal: Goal | None, labels: Counter[bytes]) -> Iterator[_Supposed]:
    if goal is None:
        return
    tail = tail_of(float(goal.certainty))
    has_labels = goal.metric in LABEL_METRICS and len(labels) > 1
    trivial = _trivial_score(goal.metric, labels) if has_labels else None
    # The supposed model is better than each floor: the goal, and the most frequent label.
    floors = [float(each) for each in (trivial, goal.at_least) if each is not None]
    least = max(map(better_than, floors), default=0.0)
    for each in of_goal(goal):
        before, after = _widest(each, least)
        yield _Supposed(hypothesis=each, tail=tail, before=before, after=after)
    if trivial is not None:
        other = Hypothesis(
            metric=goal.metric, field="overLabel", bound=str(LEAST_OVER), certainty=goal.certainty
        )
        name = "goal: more than always giving the most frequent label"
        yield _Supposed(hypothesis=other, name=name, tail=tail, before=trivial, after=least)


def _widest(hypothesis: Hypothesis, at_least: float) -> tuple[float | None, float]:
    """Return the true scores at which a gain varies most, of a model better by the margin."""
    if not hypothesis.is_gain:
        return None, at_least
    before, after = widest_gain(better_than(hypothesis.least), at_least=at_least)
    return (1 - after if hypothesis.metric == OPPOSED else before), after


def _gates(spec: FineTuneJobSpec, *, has_published: bool) -> Iterator[_Supposed]:
    blocking = of_blocking_gates(spec.evaluation.gates, has_published=has_published)
    family = len({each.identity for each in blocking})
    for each in blocking:
        if "." in each.metric:
            continue  # of other rows than the held-out ones
        tail = tail_of_many(float(each.certainty), family)
        before, after = _widest(each, 0.0 if each.is_gain else better_than(each.least))
        yield _Supposed(hypothesis=each, tail=tail, before=before, after=after)


def _trivial_score(metric: str, labels: Mapping[bytes, int]) -> float:
    """Return what always giving the most frequent label scores."""
    most = max(labels.values()) / sum(labels.values())
    return 2 * most / (1 + most) / len(labels) if metric == "macroF1" else most


def unevenness_of(labels: Counter[bytes]) -> float:
    """Return needed rows divided by the rows that equally frequent labels would need.

    The mean over labels varies with the number of rows of each label.
    """
    if not labels:
        return 1.0
    total = labels.total()
    return sum(total / count for count in labels.values()) / len(labels) ** 2
