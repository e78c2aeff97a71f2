"""Decides whether the gates of a job hold: many claims at once, each with its near bound. Pure.

What could not be measured is missed, and says why. Gates that stop nothing cost those that do
nothing: each severity is corrected by itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from finetune_api.evaluation_result import MAX_GATE_MESSAGE, MAX_SLICE_WORDS, GateResult
from finetune_api.v1alpha1.gates import Gate
from finetune_api.v1alpha1.scoring import LOWER_IS_BETTER, BaselineName, name_base
from finetune_trainer.evaluate.goal import SLACK, what_decides
from finetune_trainer.evaluate.slices import describe_slice
from finetune_trainer.statistics.claims import correct_for_many
from finetune_trainer.statistics.confidence import Confidence
from finetune_trainer.statistics.paired import Compared

Severity = Literal["Block", "Warn"]
SEVERITIES: tuple[Severity, ...] = ("Block", "Warn")
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
    """

    compared: Compared
    num_prompts: int
    baseline: BaselineName = "AsIs"
    version: int | None = None

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


@dataclass(frozen=True, kw_only=True, slots=True)
class _Claim:
    """What a gate claims, as a score of which one side is asked.

    Attributes:
        gate: The gate.
        asked: The bound in words.
        score: The score that is held against it.
        threshold: What its near end must reach.
        is_lower: The lower end is the near one.
        num_prompts: Independent prompts behind it.
        beside: What else to tell of it.
    """

    gate: Gate
    asked: str
    score: Confidence
    threshold: float
    is_lower: bool
    num_prompts: int
    beside: str = ""

    @property
    def doubt(self) -> float:
        """p-value of the claim."""
        if self.is_lower:
            return self.score.doubt_above(self.threshold - SLACK)
        return self.score.doubt_below(self.threshold + SLACK)


_Read = _Claim | Unmeasured | Inapplicable


@dataclass(frozen=True, kw_only=True, slots=True)
class _Family:
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
        if isinstance(claim, _Claim)
        else _without_figures(gate, claim)
        for gate, claim in read
    ]


def _gather(severity: Severity, read: Sequence[tuple[Gate, _Read]]) -> _Family:
    doubts: dict[Hashable, float] = {}
    for gate, claim in read:
        # What asks for nothing can be passed by no luck.
        if gate.severity == severity and not isinstance(claim, Inapplicable):
            doubts[gate.claim] = claim.doubt if isinstance(claim, _Claim) else CERTAIN_DOUBT
    return _Family(severity=severity, doubts=doubts)


def _read(gate: Gate, found: Standing) -> _Read:
    if not isinstance(found, Found):
        return found
    compared, number = found.compared, found.num_prompts

    def claim(score: Confidence, threshold: float, *, is_lower: bool, beside: str = "") -> _Claim:
        return _Claim(
            gate=gate,
            asked=describe_bound(gate),
            score=score,
            threshold=threshold,
            is_lower=is_lower,
            num_prompts=number,
            beside=beside,
        )

    if not all(math.isfinite(each.value) for each in (compared.base, compared.tuned)):
        return Unmeasured(why=f"{gate.metric} is no finite number there")
    if gate.at_least is not None:
        return claim(compared.tuned, float(gate.at_least), is_lower=True)
    if gate.at_most is not None:
        return claim(compared.tuned, float(gate.at_most), is_lower=False)
    wanted = gate.over_base if gate.over_base is not None else gate.over_published
    assert wanted is not None
    beside = f" over {found.rival} {compared.base.value:.3f}"
    if gate.metric in LOWER_IS_BETTER:
        # Better is less: an improvement of 0.1 is a difference of at most -0.1.
        return claim(compared.gain, -float(wanted), is_lower=False, beside=beside)
    return claim(compared.gain, float(wanted), is_lower=True, beside=beside)


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


def _judge(claim: _Claim, family: _Family) -> GateResult:
    gate, certainty = claim.gate, float(claim.gate.certainty)
    allowed, doubt = 1 - certainty, family.corrected(gate)
    interval = claim.score.interval(certainty)
    near = interval.low if claim.is_lower else interval.high
    is_met = doubt <= allowed + SLACK
    sign = "+" if claim.beside else ""
    words = (
        f"{_subject(gate)} {interval.value:{sign}.3f}{claim.beside}, "
        f"{'lower' if claim.is_lower else 'upper'} bound {_near_text(near, claim, sign)} "
        f"({claim.asked}), at {certainty * 100:g} % certainty"
    )
    if len(family) > 1:
        words += (
            f"; doubt {doubt:.3f} of {allowed:.3f} that {len(family)} gates of severity "
            f"{family.severity} may have"
        )
    if not is_met:
        words += f"; {_remedy(claim, near)}"
    return GateResult(
        name=gate.name,
        severity=gate.severity,
        met=is_met,
        message=_cut(words),
        metric=gate.metric,
        slice=describe_slice(gate.slice)[:MAX_SLICE_WORDS],
        asked=claim.asked,
        value=f"{interval.value:{sign}.4f}",
        bound=_near_text(near, claim, sign),
    )


def _remedy(claim: _Claim, near: float) -> str:
    reaches = near >= claim.threshold - SLACK if claim.is_lower else near <= claim.threshold + SLACK
    if reaches:
        return (
            "the bound reaches it, and not any more once corrected for the number of gates: more "
            "held-out prompts, or fewer gates, would decide it"
        )
    interval = claim.score.interval(float(claim.gate.certainty))
    if claim.is_lower:
        return what_decides(interval, claim.threshold, claim.num_prompts)
    return what_decides(interval.negated(), -claim.threshold, claim.num_prompts)


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


def _near_text(bound: float, claim: _Claim, sign: str) -> str:
    # Rounded to the unfavourable side: 0.89995 is not shown as the 0.900 that it misses.
    if not math.isfinite(bound):
        return f"{bound:{sign}.3f}"
    rounded = math.floor(bound * 1000) if claim.is_lower else math.ceil(bound * 1000)
    return f"{rounded / 1000:{sign}.3f}"


def _cut(words: str) -> str:
    return words if len(words) <= MAX_GATE_MESSAGE else words[: MAX_GATE_MESSAGE - 3] + "..."
