"""Refuses gates of which each could be shown, but not all at once.

The evaluation corrects the p-values of gates that stop a job for their number (Holm). A p-value
cannot be smaller than the bounds of its score allow. This module gives every gate the smallest
p-value that any answers could have, and refuses what is missed even then. Where the smallest is not
known it assumes a small one, so it refuses only what is certain to be missed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from finetune_api.v1alpha1.evaluation.probing import FACT_METRICS, NUM_PROBES
from finetune_api.v1alpha1.evaluation.scoring import JUDGE_METRICS
from finetune_api.v1alpha1.evaluation.spec import MOST_RESAMPLES
from finetune_api.v1alpha1.finetunejob import FineTuneJobSpec
from finetune_trainer.data.held_out import HeldOutSplit
from finetune_trainer.errors import DataError
from finetune_trainer.statistics.bounded import NUM_DRAWS
from finetune_trainer.statistics.confidence import SLACK
from finetune_trainer.verdict.best_case import MORE_GROUPS, BestCase, count_least, least_doubt
from finetune_trainer.verdict.certainty import Family
from finetune_trainer.verdict.hypotheses import of_blocking_gates

GATE_REASON = "GateUndecidable"
MOST_NAMED = 3
"""A message names the wanted prompts of so many gates."""
LEAST_LEVELS = 1000
"""Bounds of a score that is resampled, at least."""


def require_gates_together(
    spec: FineTuneJobSpec, side: HeldOutSplit, *, num_questions: int
) -> None:
    """Refuse gates of which not all could be met, although each by itself could be.

    Args:
        spec: The job's spec.
        side: The held-out side, read with the job's gates.
        num_questions: Held-out questions that are asked at most.

    Raises:
        DataError: ``GateUndecidable``; names the gate, and what would help.
    """
    # One on the published version may not apply, and then counts for nothing.
    found = [
        _best_of(BestCase(spec=spec, side=side, hypothesis=each, num_questions=num_questions))
        for each in of_blocking_gates(spec.evaluation.gates, has_published=False)
    ]
    levels = max(LEAST_LEVELS, spec.evaluation.num_bootstrap_samples)
    missed = _missed(found, levels)
    if not missed:
        return
    first, doubt = missed[0]
    case, hypothesis = first.case, first.case.hypothesis
    own, number = first.doubt(levels), len(_family(found, levels))
    together, corrected, uneven = "", "", ""
    if own <= first.allowed:
        together = f" together with the other {number - 1} gate(s)"
        corrected = f"corrected for {number} gates "
    elif first.is_uneven:
        uneven = f"; {case.word_groups()}"
    raise DataError(
        GATE_REASON,
        f"evaluation.gates: {hypothesis.place} of {hypothesis.metric} cannot be met{together}, not "
        f"even with the best of answers: {corrected}its doubt would be "
        f"{doubt if corrected else own:.4g}, and certainty {hypothesis.certainty} "
        f"leaves {first.allowed:.4g}{uneven}: {_remedy(found, missed, levels)}",
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Best:
    """The smallest p-value that a gate could have.

    Attributes:
        case: The gate's hypothesis, and the held-out side.
        alike: That p-value where all scores are alike; 1 where such scores show nothing.
        is_resampled: Whether its scores have no limits, so that they are resampled.
        is_fact: Whether its probes are all that there are, so that it is sure.
        is_uneven: Whether some groups have several questions.
        is_open: Whether more held-out prompts could lower the p-value.
    """

    case: BestCase
    alike: float
    is_resampled: bool = False
    is_fact: bool = False
    is_uneven: bool = False
    is_open: bool = False

    @property
    def allowed(self) -> float:
        """The p-value that it may have, with what comparing it takes."""
        return self.case.hypothesis.allowed + SLACK

    def doubt(self, levels: int, *, has_more: bool = False) -> float:
        """Return the smallest p-value.

        Args:
            levels: Bounds that a resampled score has.
            has_more: Assume that there is no limit to the held-out prompts.
        """
        if self.is_fact:
            return 0.0
        alike = 1 / NUM_DRAWS if has_more and self.is_open else self.alike
        return min(alike, 1 / levels) if self.is_resampled else alike


def _best_of(case: BestCase) -> _Best:
    hypothesis = case.hypothesis
    metric = hypothesis.metric
    if metric in FACT_METRICS:
        return _Best(case=case, alike=0.0, is_fact=True)
    if not hypothesis.is_bounded:
        return _Best(case=case, alike=1.0, is_resampled=True)
    if metric in NUM_PROBES:
        ones = [1] * NUM_PROBES[metric]
        return _Best(case=case, alike=least_doubt(hypothesis, ones, seed=case.seed))
    if "." in metric:
        return _Best(case=case, alike=1 / NUM_DRAWS)  # of how many is not known
    groups = case.groups
    sizes = [1] * case.num_prompts if metric in JUDGE_METRICS else list(groups.values())
    return _Best(
        case=case,
        alike=least_doubt(hypothesis, sizes, seed=case.seed) if sizes else 1.0,
        is_uneven=metric not in JUDGE_METRICS and case.is_uneven(groups),
        is_open=hypothesis.least < 1,
    )


def _family(found: Sequence[_Best], levels: int, *, has_more: bool = False) -> Family:
    """Return the gates with the smallest p-values that they could have."""
    doubts = {
        each.case.hypothesis.identity: each.doubt(levels, has_more=has_more) for each in found
    }
    return Family(severity="Block", doubts=doubts)


def _missed(
    found: Sequence[_Best], levels: int, *, has_more: bool = False
) -> list[tuple[_Best, float]]:
    """Return the gates that are missed even so, with their corrected p-values."""
    family = _family(found, levels, has_more=has_more)
    corrected = [(each, family.corrected(each.case.hypothesis)) for each in found]
    return [(each, doubt) for each, doubt in corrected if doubt > each.allowed]


def _remedy(found: Sequence[_Best], missed: Sequence[tuple[_Best, float]], levels: int) -> str:
    """Return what would help, the cheapest first."""
    num_gates = len(_family(found, levels))
    first, doubt = missed[0]
    certainty = max(0.0, math.floor((1 - doubt) * 10_000 + 1e-6) / 10_000)
    less = "ask for less certainty" + (f", at most {certainty:g}" if certainty >= 0.5 else "")
    if num_gates > 1:
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
            words.append(_word_rows(missed, num_gates))
        return f"{'; '.join(words)}; or {less}"
    most = math.floor(first.allowed / first.doubt(MOST_RESAMPLES, has_more=True) + 1e-6)
    limit = f"; {most} gates are the most that could all be that sure" if most else ""
    return f"{less}{limit}: bounds tell no doubt below one in {NUM_DRAWS:,}"


def _least_levels(found: Sequence[_Best], levels: int, *, has_more: bool) -> int | None:
    """Return the fewest resamples with which all gates could be met; None where none would do."""
    ranks = range(1, len(_family(found, levels)) + 1)
    tried = {levels, *(math.ceil(rank / best.allowed - 1e-4) for best in found for rank in ranks)}
    for number in sorted(tried):
        if levels <= number <= MOST_RESAMPLES and not _missed(found, number, has_more=has_more):
            return number
    return None


def _word_rows(missed: Sequence[tuple[_Best, float]], num_gates: int) -> str:
    """Return how the gates that are missed get enough prompts for all to be met at once."""
    words = []
    for best, _ in missed:
        case = best.case
        certainty = 1 - best.allowed / num_gates
        wanted = count_least(case.hypothesis, certainty) if best.is_open else None
        if wanted is None:
            continue
        assert case.hypothesis.gate is not None
        number, name = case.num_prompts, f"gate {case.hypothesis.gate.name}"
        if best.is_uneven and number >= wanted:
            words.append(f"for {name} {MORE_GROUPS}")
            continue
        wanted = max(wanted, number + 1)  # bounds are a little coarser than what is counted
        words.append(
            f"{name} wants {wanted} independent prompts of its slice, and has {number}: "
            f"{case.word_more(wanted)}"
        )
    left_out = len(words) - MOST_NAMED
    return "; ".join(words[:MOST_NAMED]) + (f"; and {left_out} more so" if left_out > 0 else "")
