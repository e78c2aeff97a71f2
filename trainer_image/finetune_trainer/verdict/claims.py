"""What gates claim, several at once, and what would be enough where one is missed. Pure.

Gates that stop nothing cost those that do nothing: each severity is corrected by itself.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from finetune_api.meta import decimal_of
from finetune_api.v1alpha1.evaluation.gates import Gate
from finetune_api.v1alpha1.evaluation.spec import MOST_RESAMPLES
from finetune_trainer.statistics.bounded import NUM_DRAWS
from finetune_trainer.statistics.claims import correct_for_many, count_ahead
from finetune_trainer.statistics.confidence import LEAST_OVER, SLACK, Confidence
from finetune_trainer.verdict.figures import (
    compare_figures,
    figure_text,
    high_text,
    low_text,
)
from finetune_trainer.verdict.goal import DIGITS, what_decides
from finetune_trainer.verdict.hypotheses import Rival

Severity = Literal["Block", "Warn"]
SEVERITIES: tuple[Severity, ...] = ("Block", "Warn")


@dataclass(frozen=True, kw_only=True, slots=True)
class Claim:
    """What a gate claims, as a score of which one side is asked.

    Attributes:
        gate: The gate.
        asked: The bound in words.
        score: The score that is held against it.
        threshold: What its near end must reach.
        is_lower: The lower end is the near one.
        best: The best that the score can be; None where there is no such.
        num_prompts: Independent prompts behind it.
        beside: What else to tell of it.
        rivals: What the tuned model must be better than as well, each with a known score.
    """

    gate: Gate
    asked: str
    score: Confidence
    threshold: float
    is_lower: bool
    best: float | None
    num_prompts: int
    beside: str = ""
    rivals: Sequence[Rival] = ()

    @property
    def doubt(self) -> float:
        """p-value of the claim: that of the part of it which is least sure.

        Source: Berger 1982, "Multiparameter hypothesis testing and acceptance sampling": a claim
        that several things hold needs no correction for their number.
        """
        if self.is_lower:
            doubt = self.score.doubt_above(self.threshold - SLACK)
        else:
            doubt = self.score.doubt_below(self.threshold + SLACK)
        over = (rival.over for rival in self.rivals if rival.over is not None)
        return max([doubt, *(each.doubt_above(LEAST_OVER - SLACK) for each in over)])

    @property
    def is_beyond_rivals(self) -> bool:
        """Whether it is better than what stays the same, with the gate's own certainty."""
        return self.missed_rival(float(self.gate.certainty)) is None

    def missed_rival(self, certainty: float) -> Rival | None:
        """Return what it is not better than, if anything, with a certainty."""
        return next((rival for rival in self.rivals if rival.is_missed(certainty)), None)

    @property
    def least_doubt(self) -> float:
        """The least that its bounds could ever tell: there are only so many of them."""
        return self.score.doubt_above(-math.inf)

    @property
    def allowed(self) -> float:
        """The doubt that it may have."""
        return float(1 - decimal_of(self.gate.certainty))

    @property
    def sign(self) -> str:
        """What stands before a positive figure."""
        return "+" if self.beside else ""

    def figure(self, *, digits: int = DIGITS) -> str:
        """Return the score in words."""
        return figure_text(self.score.value, self.threshold, digits=digits, sign=self.sign)

    def near(self, certainty: float) -> float:
        """Return the bound that is held against the threshold."""
        interval = self.score.interval(certainty)
        return interval.low if self.is_lower else interval.high

    def near_text(self) -> str:
        """Return that bound in words, for the gate's own certainty."""
        told = low_text if self.is_lower else high_text
        near = self.near(float(self.gate.certainty))
        return told(near, self.threshold, digits=DIGITS, sign=self.sign)

    def reaches(self, figure: float) -> bool:
        """Whether a figure is on the good side of the threshold, or at it."""
        side = compare_figures(figure, self.threshold)
        return side >= 0 if self.is_lower else side <= 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Family:
    """What is claimed at once, and corrected for how much that is.

    Attributes:
        severity: Of the gates.
        doubts: p-value of each claim: gates that claim the same are one.
    """

    severity: Severity
    doubts: Mapping[Hashable, float]

    def __len__(self) -> int:
        return len(self.doubts)

    def corrected(self, gate: Gate) -> float:
        """Return the p-value of a gate's claim among all."""
        among = correct_for_many(list(self.doubts.values()))
        return dict(zip(self.doubts, among, strict=True))[gate.claim]

    def num_counted(self, claim: Claim) -> int:
        """Return by how many its doubt is multiplied before it is held true."""
        others = [doubt for key, doubt in self.doubts.items() if key != claim.gate.claim]
        return len(self) - count_ahead(others, claim.allowed + SLACK)


def find_remedy(claim: Claim, family: Family) -> str:
    """Say what would be enough for a claim that is missed, while the others stay as they are."""
    counted = family.num_counted(claim)
    each = claim.allowed / counted
    score = claim.score.interval(1 - each)
    is_beyond = claim.reaches(score.value) and compare_figures(score.value, claim.threshold) != 0
    if claim.reaches(claim.near(1 - each)) and (rival := claim.missed_rival(1 - each)):
        return _remedy_of_rival(claim, rival, 1 - each)
    if is_beyond and claim.least_doubt > each + SLACK:
        return _remedy_of_too_few_bounds(claim, family, each)
    if is_beyond and "." in claim.gate.metric:
        return _remedy_of_probes(claim)
    words = what_decides(
        claim.gate.metric,
        score if claim.is_lower else score.negated(),
        claim.threshold if claim.is_lower else -claim.threshold,
        claim.num_prompts,
        at_limit=claim.best is not None and score.value == claim.best,
    )
    if claim.reaches(claim.near(float(claim.gate.certainty))):
        return (
            "the bound reaches it, and not any more once corrected for the number of gates (fewer "
            f"would do); {words}"
        )
    return words


def _remedy_of_rival(claim: Claim, rival: Rival, certainty: float) -> str:
    """Say what would show that the model is better than one answer to everything."""
    assert rival.over is not None
    over = rival.over.interval(certainty)
    metric = rival.by or claim.gate.metric
    return what_decides(metric, over, LEAST_OVER, claim.num_prompts, at_limit=over.value == 1)


def _remedy_of_too_few_bounds(claim: Claim, family: Family, allowed: float) -> str:
    """Say what would be enough where a claim's bounds are too few to be so sure of it."""
    ways = ["fewer of them", "less certainty"]
    wanted = math.ceil(1 / allowed - SLACK)
    is_resampled = claim.least_doubt > 1 / NUM_DRAWS
    if is_resampled and wanted <= MOST_RESAMPLES:
        ways.append(f"evaluation.numBootstrapSamples {wanted}")
    return (
        f"so many gates of severity {family.severity} at this certainty can be shown by no number "
        f"of prompts: it takes {' or '.join(ways)}"
    )


def _remedy_of_probes(claim: Claim) -> str:
    """Say what would be enough where held-out prompts are not what is measured."""
    gate = claim.gate
    ways = ["ask for less"]
    if gate.over_base is None:
        ways.append("ask for the change alone with overBase")
    if gate.severity == "Block":
        ways.append("set severity: Warn")
    return (
        f"it rests on {claim.num_prompts} probes, to which more held-out prompts add few or none: "
        f"{' or '.join(ways)}"
    )
