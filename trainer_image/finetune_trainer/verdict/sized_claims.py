"""What goal and gates of a job claim, and how many independent prompts each claim takes. Pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from finetune_api.v1alpha1.evaluation.gates import Gate
from finetune_api.v1alpha1.evaluation.judging import most_scored
from finetune_api.v1alpha1.evaluation.scoring import JUDGE_METRICS, UNBOUNDED_METRICS
from finetune_api.v1alpha1.evaluation.spec import Goal
from finetune_api.v1alpha1.finetunejob import FineTuneJobSpec
from finetune_trainer.data.held_out import HeldOut
from finetune_trainer.statistics.confidence import LEAST_OVER, tail_of
from finetune_trainer.statistics.paired_power import (
    count_for_gain,
    count_for_wins,
    widest_gain,
)
from finetune_trainer.statistics.power import POWER, better_than, count_for_share, tail_of_many
from finetune_trainer.verdict.decidable import LABEL_METRICS, count_labels
from finetune_trainer.verdict.gate_claims import threshold_of

OPPOSED = "judgeWinRate"
"""A win of the tuned model is a loss of the base: of the two scores one says the other."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Claim:
    """One thing that must hold.

    Attributes:
        field: Where the job asks for it, and what.
        metric: What is measured.
        gate: Name of the gate; None for the goal, which looks at all questions.
        wanted: Independent prompts that it takes; None where that cannot be said.
        is_possible: Whether any number of prompts could show it.
        words: What it takes, or why that cannot be said.
    """

    field: str
    metric: str
    gate: str | None = None
    wanted: int | None
    is_possible: bool = True
    words: str


@dataclass(frozen=True, kw_only=True, slots=True)
class _Asked:
    """A bound that is asked for, of which the number is still to be counted."""

    field: str
    metric: str
    gate: Gate | None
    threshold: float | None
    is_gain: bool
    tail: float | None
    before: float = 0.0
    after: float = 0.0
    is_possible: bool = True
    why_not: str = ""

    @property
    def can_be_missed(self) -> bool:
        """Whether it is counted and some score misses it."""
        return self.threshold is not None and self.threshold > (-1 if self.is_gain else 0)

    @property
    def identity(self) -> Hashable:
        """What it has in common with others that are met and missed together with it."""
        return self.field if self.gate is None else self.gate.claim


def list_claims(
    spec: FineTuneJobSpec, questions: Sequence[HeldOut], *, has_published: bool = True
) -> list[Claim]:
    """Return what must hold before a job publishes, each with the prompts that it takes.

    All of it is to be found together with the probability :data:`POWER`, so each claim may be
    missed by a part of what is left: the more claims, the more prompts each takes.

    Args:
        spec: The job's spec.
        questions: The held-out questions.
        has_published: Whether there is a version that ``overPublished`` compares with.

    Returns:
        The claims on held-out rows; none where the job asks for nothing of them.
    """
    labels = _count_labels(questions, None)
    asked = [*_goal(spec.goal, labels), *_gates(spec, has_published=has_published)]
    sized = len({each.identity for each in asked if each.can_be_missed})
    power = 1 - (1 - POWER) / max(1, sized)
    return [_size(each, questions, power) for each in asked]


def _goal(goal: Goal | None, labels: Counter[bytes]) -> Iterator[_Asked]:
    if goal is None:
        return
    tail = tail_of(float(goal.certainty))

    def ask(field: str, threshold: str | float, **more: float) -> _Asked:
        return _ask(field, goal.metric, None, float(threshold), tail, **more)

    has_labels = goal.metric in LABEL_METRICS and len(labels) > 1
    trivial = _trivial_score(goal.metric, labels) if has_labels else None
    # A model is better than all that is asked of it, the most frequent label among them.
    floors = [] if trivial is None else [trivial]
    floors += [] if goal.at_least is None else [float(goal.at_least)]
    least = max(map(better_than, floors), default=0.0)
    if goal.at_least is not None:
        yield ask(f"goal.atLeast {goal.at_least}", goal.at_least, after=least)
    if goal.at_most is not None:
        yield ask(f"goal.atMost {goal.at_most}", goal.at_most)  # of a loss
    if goal.over_base is not None:
        before, after = _widest(goal.metric, float(goal.over_base), at_least=least)
        yield ask(f"goal.overBase {goal.over_base}", goal.over_base, before=before, after=after)
    if trivial is not None:
        field = "goal: more than always giving the most frequent label"
        yield ask(field, LEAST_OVER, before=trivial, after=least)


def _widest(metric: str, gain: float, *, at_least: float = 0.0) -> tuple[float, float]:
    """Return the true scores at which a gain varies most, of a model better by the margin."""
    before, after = widest_gain(better_than(gain), at_least=at_least)
    return (1 - after if metric == OPPOSED else before), after


def _gates(spec: FineTuneJobSpec, *, has_published: bool) -> Iterator[_Asked]:
    # Those of severity Warn are told and no more, and corrected among themselves.
    gates = [
        gate
        for gate in spec.evaluation.gates
        if gate.severity == "Block" and (has_published or gate.over_published is None)
    ]
    family = len({gate.claim for gate in gates})
    for gate in gates:
        if "." in gate.metric:
            continue  # of other rows than the held-out ones
        threshold, is_gain = threshold_of(gate)
        tail = tail_of_many(float(gate.certainty), family)
        before, after = _widest(gate.metric, threshold) if is_gain else (None, None)
        after = better_than(threshold) if after is None else after
        field = f"gate {gate.name}: {' '.join(gate.asked)}"
        yield _ask(field, gate.metric, gate, threshold, tail, before=before, after=after)


def _ask(
    field: str,
    metric: str,
    gate: Gate | None,
    threshold: float,
    tail: float | None,
    *,
    before: float | None = None,
    after: float = 0.0,
) -> _Asked:
    why_not, is_possible = "", True
    if metric in UNBOUNDED_METRICS:
        why_not = f"how much {metric} varies is not known before it is measured"
    elif tail is None:
        why_not = "so many gates at this certainty can be shown by no number of prompts"
        is_possible = False
    elif threshold >= 1:
        why_not, is_possible = "it can be shown by no number of prompts", False
    return _Asked(
        field=field,
        metric=metric,
        gate=gate,
        threshold=None if why_not else threshold,
        is_gain=before is not None,
        tail=tail,
        before=before or 0.0,
        after=after,
        is_possible=is_possible,
        why_not=why_not,
    )


def _size(asked: _Asked, questions: Sequence[HeldOut], power: float) -> Claim:
    gate = None if asked.gate is None else asked.gate.name
    wanted: int | None = None
    words = f"{asked.field}: {asked.why_not}"
    if asked.threshold is not None and asked.tail is not None:
        is_less = asked.gate is not None and asked.gate.at_most is not None
        model = f"is at {1 - asked.after if is_less else asked.after:.4g}"
        if asked.is_gain:
            model = f"gains {asked.after - asked.before:.4g}"
        if not asked.is_gain:
            wanted = count_for_share(asked.threshold, asked.after, asked.tail, power)
        elif asked.metric == OPPOSED:
            wanted = count_for_wins(asked.threshold, asked.after, asked.tail, power)
        else:
            wanted = count_for_gain(asked.threshold, asked.before, asked.after, asked.tail, power)
        if asked.metric == "macroF1":
            wanted = math.ceil(wanted * unevenness_of(_count_labels(questions, gate)))
        words = (
            f"{asked.field} takes {wanted:,} independent prompts, so that a model that {model} "
            f"meets all that is asked with {POWER * 100:g} % probability"
        )
    return Claim(
        field=asked.field,
        metric=asked.metric,
        gate=gate,
        wanted=wanted,
        is_possible=asked.is_possible,
        words=words,
    )


def most_judged(spec: FineTuneJobSpec, claim: Claim, wanted: int) -> int:
    """Return how many of the wanted prompts a claim can have: a judge is asked only so many."""
    if claim.metric not in JUDGE_METRICS:
        return wanted
    return most_scored(spec.evaluation, claim.metric, wanted)


def is_of(claim: Claim, question: HeldOut) -> bool:
    """Return whether a claim looks at a question."""
    return _is_seen(claim.gate, question)


def _is_seen(gate: str | None, question: HeldOut) -> bool:
    return question.has_prompt and (gate is None or gate in question.gates)


def _count_labels(questions: Sequence[HeldOut], gate: str | None) -> Counter[bytes]:
    """Count the labels of a slice; nothing where some answer is none."""
    return count_labels([question for question in questions if _is_seen(gate, question)])


def _trivial_score(metric: str, labels: Mapping[bytes, int]) -> float:
    """Return what always giving the most frequent label scores."""
    most = max(labels.values()) / sum(labels.values())
    return 2 * most / (1 + most) / len(labels) if metric == "macroF1" else most


def unevenness_of(labels: Counter[bytes]) -> float:
    """Return how many times the rows of even labels the mean over labels takes.

    The mean of each label's own score varies with the rows that each has.
    """
    if not labels:
        return 1.0
    total = labels.total()
    return sum(total / count for count in labels.values()) / len(labels) ** 2
