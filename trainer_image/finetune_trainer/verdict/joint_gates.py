"""Refuses gates of which each could be shown, but not all at once.

The evaluation corrects the p-values of gates that stop a job for their number (Holm). A p-value
cannot be smaller than the bounds of its score allow. This module gives every gate the smallest
p-value that any answers could have, and refuses what is missed even then. Where the smallest is not
known it assumes a small one, so it refuses only what is certain to be missed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from finetune_api.v1alpha1.evaluation.spec import MOST_RESAMPLES
from finetune_api.v1alpha1.finetunejob import FineTuneJobSpec
from finetune_trainer.data.held_out import HeldOutSplit
from finetune_trainer.errors import DataError
from finetune_trainer.statistics.bounded import NUM_DRAWS
from finetune_trainer.statistics.confidence import SLACK
from finetune_trainer.verdict.best_case import BestCase, count_least
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
        BestCase(spec=spec, side=side, hypothesis=each, num_questions=num_questions)
        for each in of_blocking_gates(spec.evaluation.gates, has_published=False)
    ]
    levels = max(LEAST_LEVELS, spec.evaluation.num_bootstrap_samples)
    missed = _missed(found, levels)
    if not missed:
        return
    first, doubt = missed[0]
    hypothesis = first.hypothesis
    own, number = first.doubt(levels), len(_family(found, levels))
    together, corrected = "", ""
    if own <= _allowed(first):
        together = f" together with the other {number - 1} gate(s)"
        corrected = f"corrected for {number} gates "
    raise DataError(
        GATE_REASON,
        f"evaluation.gates: {hypothesis.place} of {hypothesis.metric} cannot be met{together}, not "
        f"even with the best of answers: {corrected}its doubt would be "
        f"{doubt if corrected else own:.4g}, and certainty {hypothesis.certainty} "
        f"leaves {_allowed(first):.4g}: {_remedy(found, missed, levels)}",
    )


def _allowed(best: BestCase) -> float:
    """Return the p-value that a gate may have, with what comparing it takes."""
    return best.hypothesis.allowed + SLACK


def _family(found: Sequence[BestCase], levels: int, *, has_more: bool = False) -> Family:
    """Return the gates with the smallest p-values that they could have."""
    doubts = {each.hypothesis.identity: each.doubt(levels, has_more=has_more) for each in found}
    return Family(severity="Block", doubts=doubts)


def _missed(
    found: Sequence[BestCase], levels: int, *, has_more: bool = False
) -> list[tuple[BestCase, float]]:
    """Return the gates that are missed even so, with their corrected p-values."""
    family = _family(found, levels, has_more=has_more)
    corrected = [(each, family.corrected(each.hypothesis)) for each in found]
    return [(each, doubt) for each, doubt in corrected if doubt > _allowed(each)]


def _remedy(
    found: Sequence[BestCase], missed: Sequence[tuple[BestCase, float]], levels: int
) -> str:
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
    most = math.floor(_allowed(first) / first.doubt(MOST_RESAMPLES, has_more=True) + 1e-6)
    limit = f"; {most} gates are the most that could all be that sure" if most else ""
    return f"{less}{limit}: bounds tell no doubt below one in {NUM_DRAWS:,}"


def _least_levels(found: Sequence[BestCase], levels: int, *, has_more: bool) -> int | None:
    """Return the fewest resamples with which all gates could be met; None where none would do."""
    ranks = range(1, len(_family(found, levels)) + 1)
    tried = {levels, *(math.ceil(rank / _allowed(best) - 1e-4) for best in found for rank in ranks)}
    for number in sorted(tried):
        if levels <= number <= MOST_RESAMPLES and not _missed(found, number, has_more=has_more):
            return number
    return None


def _word_rows(missed: Sequence[tuple[BestCase, float]], num_gates: int) -> str:
    """Return how the gates that are missed get enough prompts for all to be met at once."""
    words = []
    for best, _ in missed:
        certainty = 1 - _allowed(best) / num_gates
        wanted = count_least(best.hypothesis, certainty) if best.is_open else None
        if wanted is None:
            continue
        assert best.hypothesis.gate is not None
        number, name = best.num_prompts, f"gate {best.hypothesis.gate.name}"
        wanted = max(wanted, number + 1)  # bounds are a little coarser than what is counted
        words.append(
            f"{name} wants {wanted} independent prompts of its slice, and has {number}: "
            f"{best.word_more(wanted)}"
        )
    left_out = len(words) - MOST_NAMED
    return "; ".join(words[:MOST_NAMED]) + (f"; and {left_out} more so" if left_out > 0 else "")
