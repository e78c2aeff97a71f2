"""Decides whether the gates of a job hold: many claims at once, each with its near bound. Pure.

What could not be measured is missed, and says why.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

from finetune_api.protocol.evaluation_result import MAX_GATE_MESSAGE, MAX_SLICE_WORDS, GateResult
from finetune_api.v1alpha1.evaluation.gates import Gate
from finetune_api.v1alpha1.evaluation.scoring import (
    LOWER_IS_BETTER,
    UNBOUNDED_METRICS,
    BaselineName,
    name_base,
)
from finetune_trainer.statistics.confidence import SLACK, Confidence
from finetune_trainer.statistics.paired import Compared
from finetune_trainer.verdict.claims import SEVERITIES, Claim, Family, Severity, find_remedy
from finetune_trainer.verdict.figures import figure_text, high_text
from finetune_trainer.verdict.goal import DIGITS, word_rival
from finetune_trainer.verdict.hypotheses import Rival, describe_slice

CERTAIN_DOUBT = 1.0
"""p-value of what nothing is known of."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """What a gate's metric came out as on its rows.

    Attributes:
        compared: Base, or published version, and tuned model.
        num_prompts: Independent prompts, or other units, behind it.
        baseline: How the base model was asked.
        version: Number of the published version that stands in the base's place; None for the base.
        rivals: What the tuned model must be better than, where the gate claims a level.
    """

    compared: Compared
    num_prompts: int
    baseline: BaselineName = "AsIs"
    version: int | None = None
    rivals: Sequence[Rival] = ()

    @property
    def rival(self) -> str:
        """What the tuned model is compared with, in words."""
        if self.version is None:
            return name_base(self.baseline)
        return f"published version {self.version}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Unmeasured:
    """Why there is nothing to hold against a gate."""

    why: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Inapplicable:
    """Why a gate asks for nothing here: there is nothing to compare with."""

    why: str


Standing = Found | Unmeasured | Inapplicable
LookUp = Callable[[Gate], Standing]
"""Returns what a gate's metric came out as: of the held-out rows, or of whichever room measures it.
It is asked once for each gate."""


_Read = Claim | Unmeasured | Inapplicable


def check_gates(gates: Sequence[Gate], look_up: LookUp) -> list[GateResult]:
    """Hold every gate against what was measured, corrected for how many of its severity there are.

    Args:
        gates: The job's gates.
        look_up: Returns what a gate's metric came out as.

    Returns:
        A result for each gate, in their order.
    """
    read = [(gate, _read(gate, look_up(gate))) for gate in gates]
    families = {severity: _gather(severity, read) for severity in SEVERITIES}
    return [
        _judge(claim, families[gate.severity])
        if isinstance(claim, Claim)
        else _without_figures(gate, claim)
        for gate, claim in read
    ]


def _gather(severity: Severity, read: Sequence[tuple[Gate, _Read]]) -> Family:
    doubts: dict[Hashable, float] = {}
    for gate, claim in read:
        # What asks for nothing can be passed by no luck.
        if gate.severity == severity and not isinstance(claim, Inapplicable):
            doubts[gate.claim] = claim.doubt if isinstance(claim, Claim) else CERTAIN_DOUBT
    return Family(severity=severity, doubts=doubts)


def _read(gate: Gate, found: Standing) -> _Read:
    if not isinstance(found, Found):
        return found
    compared, number = found.compared, found.num_prompts

    is_bounded = gate.metric not in UNBOUNDED_METRICS

    def claim(
        score: Confidence, threshold: float, *, is_lower: bool, best: float, beside: str = ""
    ) -> Claim:
        return Claim(
            gate=gate,
            asked=describe_bound(gate),
            score=score,
            threshold=threshold,
            is_lower=is_lower,
            best=best if is_bounded else None,
            num_prompts=number,
            beside=beside,
            rivals=found.rivals,
        )

    problem = next((rival.problem for rival in found.rivals if rival.problem), "")
    if problem:
        return Unmeasured(why=problem)
    if not all(math.isfinite(each.value) for each in (compared.base, compared.tuned)):
        return Unmeasured(why=f"{gate.metric} is no finite number there")
    if gate.at_least is not None:
        return claim(compared.tuned, float(gate.at_least), is_lower=True, best=1)
    if gate.at_most is not None:
        return claim(compared.tuned, float(gate.at_most), is_lower=False, best=0)
    wanted = gate.over_base if gate.over_base is not None else gate.over_published
    assert wanted is not None
    beside = f" over {found.rival} {compared.base.value:.3f}"
    if gate.metric in LOWER_IS_BETTER:
        # Better is less: an improvement of 0.1 is a difference of at most -0.1.
        return claim(compared.gain, -float(wanted), is_lower=False, best=-1, beside=beside)
    return claim(compared.gain, float(wanted), is_lower=True, best=1, beside=beside)


def describe_bound(gate: Gate) -> str:
    """Return what a gate asks, in words."""
    if gate.at_least is not None:
        return f"at least {gate.at_least}"
    if gate.at_most is not None:
        return f"at most {gate.at_most}"
    side = "below" if gate.metric in LOWER_IS_BETTER else "above"
    if gate.over_base is not None:
        return f"{gate.over_base} {side} base"
    return f"{gate.over_published} {side} the published version"


def _judge(claim: Claim, family: Family) -> GateResult:
    gate, certainty = claim.gate, float(claim.gate.certainty)
    allowed, doubt = claim.allowed, family.corrected(gate)
    # The doubt is counted and the bound lies between two: where these differ, the bound decides.
    reaches = claim.reaches(claim.near(certainty))
    is_met = doubt <= allowed + SLACK and reaches and claim.is_beyond_rivals
    words = (
        f"{_subject(gate)} {claim.figure()}{claim.beside}, "
        f"{'lower' if claim.is_lower else 'upper'} bound {claim.near_text()} "
        f"({claim.asked}), at {certainty * 100:g} % certainty"
    )
    rivals = [word_rival(rival, certainty) for rival in claim.rivals]
    words = ", ".join([words, *rivals])
    if len(family) > 1:
        words += (
            f"; doubt {high_text(doubt, allowed, digits=DIGITS)} of "
            f"{figure_text(allowed, allowed, digits=DIGITS)} that {len(family)} gates of severity "
            f"{family.severity} may have"
        )
    if not is_met:
        words += f"; {find_remedy(claim, family)}"
    return GateResult(
        name=gate.name,
        severity=gate.severity,
        met=is_met,
        message=_cut(words),
        metric=gate.metric,
        slice=describe_slice(gate.slice)[:MAX_SLICE_WORDS],
        asked=claim.asked,
        value=claim.figure(digits=4),
        bound=claim.near_text(),
    )


def _without_figures(gate: Gate, claim: Unmeasured | Inapplicable) -> GateResult:
    applies = isinstance(claim, Unmeasured)
    words = "was not measured" if applies else "does not apply"
    return GateResult(
        name=gate.name,
        severity=gate.severity,
        met=not applies,
        applicable=applies,
        message=_cut(f"{_subject(gate)} ({describe_bound(gate)}) {words}: {claim.why}"),
        metric=gate.metric,
        slice=describe_slice(gate.slice)[:MAX_SLICE_WORDS],
        asked=describe_bound(gate),
    )


def _subject(gate: Gate) -> str:
    part = describe_slice(gate.slice)
    return f"{gate.metric} of {part}" if part else gate.metric


def _cut(words: str) -> str:
    return words if len(words) <= MAX_GATE_MESSAGE else words[: MAX_GATE_MESSAGE - 3] + "..."
