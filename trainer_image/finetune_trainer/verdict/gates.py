"""Decides whether the gates of a job hold: several hypotheses, each with its near bound. Pure.

What could not be measured is missed, and says why.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

from finetune_api.protocol.evaluation_result import MAX_GATE_MESSAGE, MAX_SLICE_WORDS, GateResult
from finetune_api.v1alpha1.evaluation.gates import Gate
from finetune_api.v1alpha1.evaluation.scoring import BaselineName, name_base
from finetune_api.v1alpha1.evaluation.spec import MOST_RESAMPLES
from finetune_trainer.statistics.bounded import NUM_DRAWS
from finetune_trainer.statistics.confidence import LEAST_OVER, SLACK, Confidence
from finetune_trainer.statistics.paired import Compared
from finetune_trainer.verdict.certainty import SEVERITIES, Family, Severity
from finetune_trainer.verdict.figures import compare_figures, figure_text, high_text
from finetune_trainer.verdict.goal import DIGITS, near_text, what_decides, word_rival
from finetune_trainer.verdict.hypotheses import Hypothesis, Rival, describe_slice, of_gate

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


@dataclass(frozen=True, kw_only=True, slots=True)
class _Tested:
    """A gate's hypothesis, and the score that decides it.

    Attributes:
        hypothesis: What is asked.
        score: The score, or gain, that is held against its threshold.
        num_prompts: Independent prompts behind it.
        beside: Words that follow the figure in the message.
        rivals: What the tuned model must be better than as well, each with a known score.
    """

    hypothesis: Hypothesis
    score: Confidence
    num_prompts: int
    beside: str
    rivals: Sequence[Rival]

    @property
    def doubt(self) -> float:
        """p-value of the hypothesis: that of the part of it which is least sure.

        Source: Berger 1982, "Multiparameter hypothesis testing and acceptance sampling": a claim
        that several things hold needs no correction for their number.
        """
        threshold = self.hypothesis.threshold
        if self.hypothesis.is_lower:
            doubt = self.score.doubt_above(threshold - SLACK)
        else:
            doubt = self.score.doubt_below(threshold + SLACK)
        over = (rival.over for rival in self.rivals if rival.over is not None)
        return max([doubt, *(each.doubt_above(LEAST_OVER - SLACK) for each in over)])

    def missed_rival(self, certainty: float) -> Rival | None:
        """Return what it is not better than, if anything, with a certainty."""
        return next((rival for rival in self.rivals if rival.is_missed(certainty)), None)

    @property
    def least_doubt(self) -> float:
        """The least p-value that its bounds could tell: there are only so many of them."""
        return self.score.doubt_above(-math.inf)

    @property
    def sign(self) -> str:
        """What stands before a positive figure."""
        return "+" if self.hypothesis.is_gain else ""

    def figure(self, *, digits: int = DIGITS) -> str:
        """Return the score in words."""
        threshold = self.hypothesis.threshold
        return figure_text(self.score.value, threshold, digits=digits, sign=self.sign)

    def near_text(self) -> str:
        """Return the near bound in words, for the gate's own certainty."""
        interval = self.score.interval(float(self.hypothesis.certainty))
        return near_text(self.hypothesis, interval, sign=self.sign)

    def reaches(self, certainty: float) -> bool:
        """Whether the near bound is on the good side of the threshold, or at it."""
        turned, wanted = self.hypothesis.turn(self.score.interval(certainty))
        return compare_figures(turned.low, wanted) >= 0


_Read = _Tested | Unmeasured | Inapplicable


def check_gates(gates: Sequence[Gate], look_up: LookUp) -> list[GateResult]:
    """Hold every gate against what was measured, corrected for how many of its severity there are.

    Args:
        gates: The job's gates.
        look_up: Returns what a gate's metric came out as.

    Returns:
        A result for each gate, in their order.
    """
    read = [(gate, _read(of_gate(gate), look_up(gate))) for gate in gates]
    families = {severity: _gather(severity, read) for severity in SEVERITIES}
    return [
        _judge(gate, found, families[gate.severity])
        if isinstance(found, _Tested)
        else _without_figures(gate, found)
        for gate, found in read
    ]


def _gather(severity: Severity, read: Sequence[tuple[Gate, _Read]]) -> Family:
    doubts: dict[Hashable, float] = {}
    for gate, found in read:
        # A gate that does not apply cannot be passed by luck.
        if gate.severity == severity and not isinstance(found, Inapplicable):
            doubt = found.doubt if isinstance(found, _Tested) else CERTAIN_DOUBT
            doubts[of_gate(gate).identity] = doubt
    return Family(severity=severity, doubts=doubts)


def _read(hypothesis: Hypothesis, found: Standing) -> _Read:
    if not isinstance(found, Found):
        return found
    compared = found.compared
    problem = next((rival.problem for rival in found.rivals if rival.problem), "")
    if problem:
        return Unmeasured(why=problem)
    if not all(math.isfinite(each.value) for each in (compared.base, compared.tuned)):
        return Unmeasured(why=f"{hypothesis.metric} is no finite number there")
    is_gain = hypothesis.is_gain
    return _Tested(
        hypothesis=hypothesis,
        score=compared.gain if is_gain else compared.tuned,
        num_prompts=found.num_prompts,
        beside=f" over {found.rival} {compared.base.value:.3f}" if is_gain else "",
        rivals=found.rivals,
    )


def _judge(gate: Gate, tested: _Tested, family: Family) -> GateResult:
    hypothesis = tested.hypothesis
    certainty, allowed = float(hypothesis.certainty), hypothesis.allowed
    doubt = family.corrected(hypothesis)
    # The doubt is counted and the bound lies between two: where these differ, the bound decides.
    is_beyond = tested.reaches(certainty) and tested.missed_rival(certainty) is None
    is_met = doubt <= allowed + SLACK and is_beyond
    words = (
        f"{_subject(gate)} {tested.figure()}{tested.beside}, "
        f"{'lower' if hypothesis.is_lower else 'upper'} bound {tested.near_text()} "
        f"({hypothesis.words}), at {certainty * 100:g} % certainty"
    )
    rivals = [word_rival(rival, certainty) for rival in tested.rivals]
    words = ", ".join([words, *rivals])
    if len(family) > 1:
        words += (
            f"; doubt {high_text(doubt, allowed, digits=DIGITS)} of "
            f"{figure_text(allowed, allowed, digits=DIGITS)} that {len(family)} gates of severity "
            f"{family.severity} may have"
        )
    if not is_met:
        words += f"; {_find_remedy(tested, family)}"
    return GateResult(
        name=gate.name,
        severity=gate.severity,
        met=is_met,
        message=_cut(words),
        metric=gate.metric,
        slice=describe_slice(gate.slice)[:MAX_SLICE_WORDS],
        asked=hypothesis.words,
        value=tested.figure(digits=4),
        bound=tested.near_text(),
    )


def _without_figures(gate: Gate, found: Unmeasured | Inapplicable) -> GateResult:
    applies, asked = isinstance(found, Unmeasured), of_gate(gate).words
    words = "was not measured" if applies else "does not apply"
    return GateResult(
        name=gate.name,
        severity=gate.severity,
        met=not applies,
        applicable=applies,
        message=_cut(f"{_subject(gate)} ({asked}) {words}: {found.why}"),
        metric=gate.metric,
        slice=describe_slice(gate.slice)[:MAX_SLICE_WORDS],
        asked=asked,
    )


def _subject(gate: Gate) -> str:
    part = describe_slice(gate.slice)
    return f"{gate.metric} of {part}" if part else gate.metric


def _cut(words: str) -> str:
    return words if len(words) <= MAX_GATE_MESSAGE else words[: MAX_GATE_MESSAGE - 3] + "..."


def _find_remedy(tested: _Tested, family: Family) -> str:
    """Say what would be enough for a gate that is missed, while the others stay as they are."""
    hypothesis = tested.hypothesis
    each = hypothesis.allowed / family.num_counted(hypothesis)
    interval = tested.score.interval(1 - each)
    turned, wanted = hypothesis.turn(interval)
    is_beyond = compare_figures(turned.value, wanted) > 0
    if tested.reaches(1 - each) and (rival := tested.missed_rival(1 - each)):
        assert rival.over is not None
        over, metric = rival.over.interval(1 - each), rival.by or hypothesis.metric
        at_limit = over.value == 1
        return what_decides(metric, over, LEAST_OVER, tested.num_prompts, at_limit=at_limit)
    if is_beyond and tested.least_doubt > each + SLACK:
        return _remedy_of_too_few_bounds(tested, family, each)
    if is_beyond and "." in hypothesis.metric:
        return _remedy_of_probes(tested, family)
    words = what_decides(
        hypothesis.metric,
        turned,
        wanted,
        tested.num_prompts,
        at_limit=hypothesis.is_at_limit(interval.value),
    )
    if tested.reaches(float(hypothesis.certainty)):
        return (
            "the bound reaches it, and not any more once corrected for the number of gates (fewer "
            f"would do); {words}"
        )
    return words


def _remedy_of_too_few_bounds(tested: _Tested, family: Family, allowed: float) -> str:
    """Say what would be enough where a score has too few bounds to be so sure of it."""
    ways = ["fewer of them", "less certainty"]
    wanted = math.ceil(1 / allowed - SLACK)
    is_resampled = tested.least_doubt > 1 / NUM_DRAWS
    if is_resampled and wanted <= MOST_RESAMPLES:
        ways.append(f"evaluation.numBootstrapSamples {wanted}")
    return (
        f"so many gates of severity {family.severity} at this certainty can be shown by no number "
        f"of prompts: it takes {' or '.join(ways)}"
    )


def _remedy_of_probes(tested: _Tested, family: Family) -> str:
    """Say what would be enough where held-out prompts are not what is measured."""
    ways = ["ask for less"]
    if tested.hypothesis.field != "overBase":
        ways.append("ask for the change alone with overBase")
    if family.severity == "Block":
        ways.append("set severity: Warn")
    return (
        f"it rests on {tested.num_prompts} probes, to which more held-out prompts add few or none: "
        f"{' or '.join(ways)}"
    )
