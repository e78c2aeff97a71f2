"""Refuses gates that could each be shown, and never all at once.

The evaluation corrects the doubts of gates that stop a job for how many there are (Holm), and a
doubt is never below what its bounds can tell. Here every gate has the least doubt that any answers
could leave it; what is missed even then is refused. Where that least is not known it is taken to be
small, so that only what is certain is refused.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from finetune_api.v1alpha1.evaluation.gates import Gate
from finetune_api.v1alpha1.evaluation.judging import most_scored
from finetune_api.v1alpha1.evaluation.probing import FACT_METRICS, NUM_PROBES
from finetune_api.v1alpha1.evaluation.scoring import JUDGE_METRICS, UNBOUNDED_METRICS
from finetune_api.v1alpha1.evaluation.spec import MOST_RESAMPLES
from finetune_api.v1alpha1.finetunejob import FineTuneJobSpec
from finetune_trainer.data.held_out import HeldOutSide
from finetune_trainer.errors import DataError
from finetune_trainer.statistics.bounded import NUM_DRAWS
from finetune_trainer.statistics.claims import correct_for_many
from finetune_trainer.statistics.needed import HITS
from finetune_trainer.verdict.best_answers import word_groups
from finetune_trainer.verdict.decidable import scale_of
from finetune_trainer.verdict.gate_claims import (
    REASON,
    allowed_doubt,
    count_least,
    least_doubt,
    name_gate,
    sees,
    threshold_of,
)
from finetune_trainer.verdict.remedies import MORE_GROUPS, word_more

MOST_NAMED = 3
"""Gates that a message says the wanted prompts of."""
LEAST_LEVELS = 1000
"""Bounds of a score that is resampled, at least."""


def require_gates_together(spec: FineTuneJobSpec, side: HeldOutSide, *, num_questions: int) -> None:
    """Refuse gates of which not all could be met, although each by itself could be.

    Args:
        spec: The job's spec.
        side: The held-out side, read with the job's gates.
        num_questions: Held-out questions that are asked at most.

    Raises:
        DataError: ``GateUndecidable``; names the gate, and what would help.
    """
    # One on the published version may not apply, and then counts for nothing; nor do those that
    # stop nothing, which are corrected by themselves.
    gates = [
        gate
        for gate in spec.evaluation.gates
        if gate.severity == "Block" and gate.over_published is None
    ]
    levels = max(LEAST_LEVELS, spec.evaluation.num_bootstrap_samples)
    found = [_best_of(spec, gate, side, num_questions) for gate in gates]
    missed = _missed(found, levels)
    if not missed:
        return
    first, doubt = missed[0]
    gate = first.gate
    allowed = allowed_doubt(gate)
    own, number = first.doubt(levels), _count_claims(found)
    together, corrected, uneven = "", "", ""
    if own <= allowed:
        together = f" together with the other {number - 1} gate(s)"
        corrected = f"corrected for {number} gates "
    elif first.is_uneven:
        uneven = f"; {word_groups(side.groups(num_questions, sees(gate)))}"
    remedy = _remedy(spec, side, found, missed, levels, num_questions)
    raise DataError(
        REASON,
        f"{name_gate(gate)} of {gate.metric} cannot be met{together}, not even with the best of "
        f"answers: {corrected}its doubt would be "
        f"{doubt if corrected else own:.4g}, and certainty {gate.certainty} "
        f"leaves {allowed:.4g}{uneven}: {remedy}",
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Best:
    """What the best of answers could show of a gate.

    Attributes:
        gate: The gate.
        alike: The least doubt, where all scores are alike; 1 where such scores show nothing.
        is_resampled: Whether its scores have no limits, and are resampled.
        is_fact: Whether it is measured without doubt.
        is_uneven: Whether its questions fall into groups of several.
        is_open: Whether more held-out prompts could lower its doubt.
    """

    gate: Gate
    alike: float
    is_resampled: bool = False
    is_fact: bool = False
    is_uneven: bool = False
    is_open: bool = False

    def doubt(self, levels: int, *, has_more: bool = False) -> float:
        """Return the least doubt.

        Args:
            levels: Bounds that a resampled score has.
            has_more: Take as many held-out prompts as one likes.
        """
        if self.is_fact:
            return 0.0
        alike = 1 / NUM_DRAWS if has_more and self.is_open else self.alike
        return min(alike, 1 / levels) if self.is_resampled else alike


def _best_of(spec: FineTuneJobSpec, gate: Gate, side: HeldOutSide, num_questions: int) -> _Best:
    if gate.metric in FACT_METRICS:
        return _Best(gate=gate, alike=0.0, is_fact=True)
    if gate.metric in UNBOUNDED_METRICS:
        return _Best(gate=gate, alike=1.0, is_resampled=True)
    seed = spec.dataset.split.seed
    if gate.metric in NUM_PROBES:
        ones = [1] * NUM_PROBES[gate.metric]
        return _Best(gate=gate, alike=least_doubt(gate, ones, HITS, seed=seed))
    if "." in gate.metric:
        return _Best(gate=gate, alike=1 / NUM_DRAWS)  # of how many is not known
    scale = scale_of(gate.metric)
    groups = side.groups(num_questions, sees(gate))
    sizes = list(groups.values())
    if gate.metric in JUDGE_METRICS:
        sizes = [1] * most_scored(spec.evaluation, gate.metric, len(sizes))
    return _Best(
        gate=gate,
        alike=least_doubt(gate, sizes, scale, seed=seed) if sizes else 1.0,
        is_uneven=scale.is_mean and sum(sizes) > len(sizes),
        is_open=threshold_of(gate)[0] < 1,
    )


def _missed(
    found: Sequence[_Best], levels: int, *, has_more: bool = False
) -> list[tuple[_Best, float]]:
    """Return the gates that are missed even so, with their corrected doubts."""
    doubts = {best.gate.claim: best.doubt(levels, has_more=has_more) for best in found}
    corrected = dict(zip(doubts, correct_for_many(list(doubts.values())), strict=True))
    return [
        (best, corrected[best.gate.claim])
        for best in found
        if corrected[best.gate.claim] > allowed_doubt(best.gate)
    ]


def _count_claims(found: Sequence[_Best]) -> int:
    """Return for how many gates doubts are corrected: those that claim the same are one."""
    return len({best.gate.claim for best in found})


def _remedy(
    spec: FineTuneJobSpec,
    side: HeldOutSide,
    found: Sequence[_Best],
    missed: Sequence[tuple[_Best, float]],
    levels: int,
    num_questions: int,
) -> str:
    """Return what would help: what costs least first."""
    first, doubt = missed[0]
    certainty = max(0.0, math.floor((1 - doubt) * 10_000 + 1e-6) / 10_000)
    less = "ask for less certainty" + (f", at most {certainty:g}" if certainty >= 0.5 else "")
    if _count_claims(found) > 1:
        less += ", or for fewer gates"
    for has_more in (False, True):
        enough = _least_levels(found, levels, has_more=has_more)
        if enough is None:
            continue
        words = []
        if enough > levels:
            words.append(
                f"set evaluation.numBootstrapSamples to {enough}, for bounds of scores that vary "
                f"tell no doubt below one in {levels}"
            )
        if has_more:
            words.append(_word_rows(spec, side, missed, _count_claims(found), num_questions))
        return f"{'; '.join(words)}; or {less}"
    most = math.floor(allowed_doubt(first.gate) / first.doubt(MOST_RESAMPLES, has_more=True) + 1e-6)
    limit = f"; {most} gates are the most that could all be that sure" if most else ""
    return f"{less}{limit}: bounds tell no doubt below one in {NUM_DRAWS:,}"


def _least_levels(found: Sequence[_Best], levels: int, *, has_more: bool) -> int | None:
    """Return the fewest resamples with which all gates could be met; None where none would do."""
    tried = {levels}
    for best in found:
        for rank in range(1, _count_claims(found) + 1):
            tried.add(math.ceil(rank / allowed_doubt(best.gate) - 1e-4))
    for number in sorted(tried):
        if levels <= number <= MOST_RESAMPLES and not _missed(found, number, has_more=has_more):
            return number
    return None


def _word_rows(
    spec: FineTuneJobSpec,
    side: HeldOutSide,
    missed: Sequence[tuple[_Best, float]],
    num_gates: int,
    num_questions: int,
) -> str:
    """Return how the gates that are missed get enough prompts for all to be met at once."""
    words = []
    for best, _ in missed:
        gate, scale = best.gate, scale_of(best.gate.metric)
        wanted = (
            count_least(gate, 1 - allowed_doubt(gate) / num_gates, scale) if best.is_open else None
        )
        if wanted is None:
            continue
        groups = side.groups(num_questions, sees(gate))
        number = most_scored(spec.evaluation, gate.metric, len(groups))
        if best.is_uneven and number >= wanted:
            words.append(f"for gate {gate.name} {MORE_GROUPS}")
            continue
        wanted = max(wanted, number + 1)  # bounds are a little coarser than what is counted
        more = word_more(
            spec, side, gate.metric, sees(gate), wanted=wanted, num_questions=num_questions
        )
        words.append(
            f"gate {gate.name} wants {wanted} independent prompts of its slice, and has {number}: "
            f"{more}"
        )
    left_out = len(words) - MOST_NAMED
    return "; ".join(words[:MOST_NAMED]) + (f"; and {left_out} more so" if left_out > 0 else "")
