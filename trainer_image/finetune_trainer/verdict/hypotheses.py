"""What goal and gates ask, as hypotheses. Pure.

``prepare`` asks whether so many held-out questions could show a hypothesis, ``evaluate`` whether
they did. Both take it from here.
"""

from __future__ import annotations

import json
from collections.abc import Hashable
from dataclasses import dataclass

from finetune_api.meta import decimal_of
from finetune_api.v1alpha1.evaluation.gates import Gate, GateSlice
from finetune_api.v1alpha1.evaluation.scoring import (
    LIKELIHOOD_METRICS,
    LOWER_IS_BETTER,
    UNBOUNDED_METRICS,
)
from finetune_api.v1alpha1.evaluation.spec import Goal
from finetune_trainer.data.held_out import HeldOut
from finetune_trainer.statistics.confidence import LEAST_OVER, SLACK, Confidence, Interval


@dataclass(frozen=True, kw_only=True, slots=True)
class Hypothesis:
    """One bound that the tuned model's score, or its gain, must reach.

    Attributes:
        metric: What is measured.
        field: How it is asked: ``atLeast``, ``atMost``, ``overBase`` or ``overPublished``.
        bound: The figure, as the job writes it.
        certainty: How sure it must be, as the job writes it.
        gate: The gate that asks it; None for the goal.
    """

    metric: str
    field: str
    bound: str
    certainty: str
    gate: Gate | None = None

    @property
    def is_gain(self) -> bool:
        """Whether a difference of two models is asked for."""
        return self.field.startswith("over")

    @property
    def is_bounded(self) -> bool:
        """Whether the metric lies between 0 and 1."""
        return self.metric not in UNBOUNDED_METRICS

    @property
    def is_lower(self) -> bool:
        """Whether the lower end of the interval is held against the threshold; else the upper."""
        is_less = self.metric in LOWER_IS_BETTER if self.is_gain else self.field == "atMost"
        return not is_less

    @property
    def threshold(self) -> float:
        """What that end must reach, in the unit of the metric.

        Where less is better, an improvement of 0.1 is a difference of at most -0.1.
        """
        figure = float(self.bound)
        return -figure if self.is_gain and not self.is_lower else figure

    @property
    def least(self) -> float:
        """What the lower end must reach of a score turned round so that its best is 1."""
        figure = float(self.bound)
        return 1 - figure if self.field == "atMost" else figure

    @property
    def allowed(self) -> float:
        """The p-value that it may have, before it is shared out over several hypotheses."""
        return float(1 - decimal_of(self.certainty))

    @property
    def identity(self) -> Hashable:
        """A key that is equal for hypotheses which always have the same outcome."""
        return self.field if self.gate is None else self.gate.claim

    @property
    def place(self) -> str:
        """Where the job asks for it, and what."""
        start = "goal." if self.gate is None else f"gate {self.gate.name}: "
        return f"{start}{self.field} {self.bound}"

    @property
    def words(self) -> str:
        """What is asked, in words."""
        if not self.is_gain:
            return f"at {'least' if self.is_lower else 'most'} {self.bound}"
        side = "above" if self.is_lower else "below"
        other = "base" if self.field == "overBase" else "the published version"
        return f"{self.bound} {side} {other}"

    def sees(self, question: HeldOut) -> bool:
        """Whether it looks at a held-out question."""
        if self.gate is None:
            return question.has_prompt
        is_scored = question.has_prompt or self.metric in LIKELIHOOD_METRICS
        return is_scored and self.gate.name in question.gates

    def turn(self, score: Interval) -> tuple[Interval, float]:
        """Return a score and the threshold, turned round so that more is better."""
        if self.is_lower:
            return score, self.threshold
        return score.negated(), -self.threshold

    def is_at_limit(self, value: float) -> bool:
        """Whether the score can be no better."""
        best = float(self.is_lower) - float(self.is_gain and not self.is_lower)
        return self.is_bounded and value == best


def of_goal(goal: Goal) -> list[Hypothesis]:
    """Return what a goal asks; all of it must hold, so none is corrected for the others."""
    bounds = {"atLeast": goal.at_least, "atMost": goal.at_most, "overBase": goal.over_base}
    return [
        Hypothesis(metric=goal.metric, field=field, bound=bound, certainty=goal.certainty)
        for field, bound in bounds.items()
        if bound is not None
    ]


def of_gate(gate: Gate) -> Hypothesis:
    """Return what a gate asks."""
    field, bound = gate.asked
    return Hypothesis(
        metric=gate.metric, field=field, bound=bound, certainty=gate.certainty, gate=gate
    )


def of_blocking_gates(gates: list[Gate], *, has_published: bool) -> list[Hypothesis]:
    """Return what the gates ask that stop a job; they are corrected among themselves.

    Args:
        gates: All gates of the job.
        has_published: Whether there is a version that ``overPublished`` compares with.
    """
    return [
        of_gate(gate)
        for gate in gates
        if gate.severity == "Block" and (has_published or gate.over_published is None)
    ]


@dataclass(frozen=True, kw_only=True, slots=True)
class Rival:
    """What the tuned model must be better than, whatever else is asked.

    Attributes:
        what: What it is, in words that follow "over".
        constant: What is always answered, in words; empty where that is not one text.
        score: What it scores.
        over: The tuned model's score minus that, paired; None where that is not known.
        by: The metric that both are scored by, where it is another one than what is asked.
        is_label: It is the most frequent label.
        problem: Why nothing is known of it; the hypothesis is missed for it.
    """

    what: str = ""
    constant: str = ""
    score: float = 0.0
    over: Confidence | None = None
    by: str = ""
    is_label: bool = False
    problem: str = ""

    def is_missed(self, certainty: float) -> bool:
        """Whether the tuned model is not better than it, with a certainty; not where unknown."""
        return self.over is not None and self.over.interval(certainty).low < LEAST_OVER - SLACK


def describe_slice(part: GateSlice | None) -> str:
    """Return which rows a gate looks at, in words; empty for all."""
    if part is None:
        return ""
    if part.label is not None:
        return f"label {json.dumps(part.label, ensure_ascii=False)}"
    if part.column is not None:
        return f"{part.column} {json.dumps(part.value, ensure_ascii=False)}"
    return f"source {part.source}"
