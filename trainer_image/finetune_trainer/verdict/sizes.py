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
from finetune_trainer.statistics.paired_power import (
    count_for_gain,
    count_for_wins,
    widest_gain,
)
from finetune_trainer.statistics.power import POWER, better_than, count_for_share, tail_of_many
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
        place: Where the job asks for it, and what.
        tail: Probability with which its bound may be wrong; None where no bound is that sure.
        before: True score of the model that a gain is over.
        after: True score of the tuned model.
    """

    hypothesis: Hypothesis
    place: str
    tail: float | None
    before: float = 0.0
    after: float = 0.0

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
        worst = -1 if self.hypothesis.is_gain else 0
        return not self.why_not and self.hypothesis.least > worst


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
    return [_size(each, questions, power) for each in supposed]


def _goal(goal: Goal | None, labels: Counter[bytes]) -> Iterator[_Supposed]:
    if goal is None:
        return
    tail = tail_of(float(goal.certainty))
    has_labels = goal.metric in LABEL_METRICS and len(labels) > 1
    trivial = _trivial_score(goal.metric, labels) if has_labels else None
    # The supposed model is better than each floor: the goal, and the most frequent label.
    floors = [] if trivial is None else [trivial]
    floors += [] if goal.at_least is None else [float(goal.at_least)]
    least = max(map(better_than, floors), default=0.0)
    for each in of_goal(goal):
        before, after = _widest(each, at_least=least) if each.is_gain else (0.0, least)
        yield _Supposed(hypothesis=each, place=each.place, tail=tail, before=before, after=after)
    if trivial is not None:
        yield _Supposed(
            hypothesis=Hypothesis(
                metric=goal.metric,
                field="overLabel",
                bound=str(LEAST_OVER),
                certainty=goal.certainty,
            ),
            place="goal: more than always giving the most frequent label",
            tail=tail,
            before=trivial,
            after=least,
        )


def _widest(hypothesis: Hypothesis, *, at_least: float = 0.0) -> tuple[float, float]:
    """Return the true scores at which a gain varies most, of a model better by the margin."""
    before, after = widest_gain(better_than(hypothesis.least), at_least=at_least)
    return (1 - after if hypothesis.metric == OPPOSED else before), after


def _gates(spec: FineTuneJobSpec, *, has_published: bool) -> Iterator[_Supposed]:
    blocking = of_blocking_gates(spec.evaluation.gates, has_published=has_published)
    family = len({each.identity for each in blocking})
    for each in blocking:
        if "." in each.metric:
            continue  # of other rows than the held-out ones
        tail = tail_of_many(float(each.certainty), family)
        before, after = _widest(each) if each.is_gain else (0.0, better_than(each.least))
        yield _Supposed(hypothesis=each, place=each.place, tail=tail, before=before, after=after)


def _size(supposed: _Supposed, questions: Sequence[HeldOut], power: float) -> Size:
    hypothesis, before, after = supposed.hypothesis, supposed.before, supposed.after
    metric, why_not = hypothesis.metric, supposed.why_not
    if why_not or supposed.tail is None:
        return Size(
            metric=metric,
            sees=hypothesis.sees,
            wanted=None,
            is_possible=not hypothesis.is_bounded,
            words=f"{supposed.place}: {why_not}",
        )
    if not hypothesis.is_gain:
        wanted = count_for_share(hypothesis.least, after, supposed.tail, power)
        model = f"is at {1 - after if hypothesis.field == 'atMost' else after:.4g}"
    else:
        model = f"gains {after - before:.4g}"
        if metric == OPPOSED:
            wanted = count_for_wins(hypothesis.least, after, supposed.tail, power)
        else:
            wanted = count_for_gain(hypothesis.least, before, after, supposed.tail, power)
    if metric == "macroF1":
        labels = count_labels([each for each in questions if hypothesis.sees(each)])
        wanted = math.ceil(wanted * unevenness_of(labels))
    return Size(
        metric=metric,
        sees=hypothesis.sees,
        wanted=wanted,
        words=(
            f"{supposed.place} takes {wanted:,} independent prompts, so that a model that {model} "
            f"meets all that is asked with {POWER * 100:g} % probability"
        ),
    )


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
