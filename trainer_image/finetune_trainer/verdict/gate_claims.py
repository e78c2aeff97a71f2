"""What a gate claims of the held-out rows, before there are any answers. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

from finetune_api.v1alpha1.evaluation.gates import Gate
from finetune_api.v1alpha1.evaluation.scoring import (
    JUDGE_METRICS,
    LOWER_IS_BETTER,
    UNBOUNDED_METRICS,
)
from finetune_trainer.data.held_out import HeldOut, IsSeen
from finetune_trainer.statistics.confidence import SLACK
from finetune_trainer.statistics.needed import Scale, count_for_best, count_for_gain
from finetune_trainer.verdict.best_answers import best_confidence, is_uneven

REASON = "GateUndecidable"
LEAST_UNBOUNDED = 2
"""Independent prompts below which what has no limits has no bounds."""


def sees(gate: Gate) -> IsSeen:
    """Return which held-out questions a gate looks at."""

    def is_seen(question: HeldOut) -> bool:
        is_scored = question.has_prompt or gate.metric in LOWER_IS_BETTER
        return is_scored and gate.name in question.gates

    return is_seen


def name_gate(gate: Gate) -> str:
    """Return what stands before what is wrong with a gate: its name, and what it asks for."""
    field, figure = gate.asked
    return f"evaluation.gates: gate {gate.name}: {field} {figure}"


def count_least(gate: Gate, certainty: float, scale: Scale) -> int | None:
    """Return the least prompts whose answers could show a gate; None where no number does.

    Args:
        gate: The gate.
        certainty: How sure it must be.
        scale: What is known of its scores, where they lie between 0 and 1.
    """
    if gate.metric in UNBOUNDED_METRICS:
        return LEAST_UNBOUNDED
    threshold, is_gain = threshold_of(gate)
    return (count_for_gain if is_gain else count_for_best)(threshold, certainty, scale)


def least_doubt(gate: Gate, sizes: Collection[int], scale: Scale, *, seed: int) -> float:
    """Return the doubt that the best of answers leave where all are alike.

    Args:
        gate: One on scores between 0 and 1.
        sizes: Questions of each group, at least one group.
        scale: What is known of the scores.
        seed: ``dataset.split.seed``.
    """
    threshold, is_gain = threshold_of(gate)
    best = best_confidence(sizes, scale, is_gain=is_gain, seed=seed)
    return best.doubt_above(threshold - SLACK)


def allowed_doubt(gate: Gate) -> float:
    """Return the doubt that a gate may leave, with what comparing it takes."""
    return 1 - float(gate.certainty) + SLACK


def is_enough(gate: Gate, groups: Counter[str], scale: Scale, *, seed: int) -> bool:
    """Return whether the sizes of groups allow a gate to be met.

    Args:
        gate: The gate.
        groups: Questions of each group, at least one group.
        scale: What is known of the scores.
        seed: ``dataset.split.seed``.
    """
    if gate.metric in UNBOUNDED_METRICS | JUDGE_METRICS or not is_uneven(groups, scale):
        return True  # a judge is asked about some of them
    return least_doubt(gate, groups.values(), scale, seed=seed) <= allowed_doubt(gate)


def threshold_of(gate: Gate) -> tuple[float, bool]:
    """Return what the lower bound of a score, or of a gain, must reach, the best being 1.

    Args:
        gate: One on scores between 0 and 1; where less is asked for, it is turned round.

    Returns:
        The threshold, and whether it is that of a gain.
    """
    field, bound = gate.asked
    figure = float(bound)
    return (1 - figure if field == "atMost" else figure), field.startswith("over")
