"""Refuses gates that the held-out side, or a pack of probes, could not show, before training."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

from finetune_api.v1alpha1.evaluation.gates import Gate, GateSlice
from finetune_api.v1alpha1.evaluation.judging import most_scored
from finetune_api.v1alpha1.evaluation.probing import NUM_PROBES
from finetune_api.v1alpha1.evaluation.scoring import UNBOUNDED_METRICS
from finetune_api.v1alpha1.finetunejob import FineTuneJobSpec
from finetune_trainer.data.held_out import HeldOutSide
from finetune_trainer.errors import DataError
from finetune_trainer.statistics.bounded import lowest_bound_of_best
from finetune_trainer.statistics.needed import HITS, highest_gain_bound
from finetune_trainer.verdict.decidable import scale_of
from finetune_trainer.verdict.gate_claims import (
    REASON,
    count_least,
    is_enough,
    name_gate,
    sees,
)
from finetune_trainer.verdict.joint_gates import require_gates_together
from finetune_trainer.verdict.remedies import word_more

MAX_SOURCES_NAMED = 8


def require_gates(spec: FineTuneJobSpec, side: HeldOutSide, *, num_questions: int) -> None:
    """Refuse gates on slices without rows, and gates that no answers could meet.

    Args:
        spec: The job's spec.
        side: The held-out side, read with the job's gates.
        num_questions: Held-out questions that are asked at most.

    Raises:
        DataError: ``GateSliceEmpty``, ``GateUndecidable``; names the gate.
    """
    gates = spec.evaluation.gates
    for gate in gates:
        if gate.slice is not None and not any(map(sees(gate), side.questions)):
            raise DataError("GateSliceEmpty", _empty_text(gate, gate.slice, side.sources))
    for gate in gates:
        if gate.severity != "Block":
            continue
        if gate.metric in NUM_PROBES:
            _require_probes(gate, NUM_PROBES[gate.metric])
        elif "." not in gate.metric:  # how much other rooms measure is not known here
            _require_decidable(spec, gate, side, num_questions)
    require_gates_together(spec, side, num_questions=num_questions)


def _empty_text(gate: Gate, part: GateSlice, sources: Sequence[str]) -> str:
    field = f"evaluation.gates: gate {gate.name}: slice"
    if part.label is not None:
        return (
            f"{field}.label {json.dumps(part.label, ensure_ascii=False)}: no held-out row has this "
            "answer; write it as the rows do (the data report lists the labels), or hold out rows "
            "that have it"
        )
    if part.column is not None:
        value = json.dumps(part.value, ensure_ascii=False)
        return (
            f"{field}.column {part.column} with value {value}: no held-out row has it; name the "
            "column in dataset.sources[].columns.slices, write the value as the rows do, or hold "
            "out rows that have it"
        )
    named = ", ".join(sources[:MAX_SOURCES_NAMED])
    more = (
        f" and {len(sources) - MAX_SOURCES_NAMED} more" if len(sources) > MAX_SOURCES_NAMED else ""
    )
    return f"{field}.source {part.source}: no held-out row came from it; there are {named}{more}"


def _require_decidable(
    spec: FineTuneJobSpec, gate: Gate, side: HeldOutSide, num_questions: int
) -> None:
    """Refuse a gate whose bound misses with every answer as good as can be."""
    is_seen, scale = sees(gate), scale_of(gate.metric)
    wanted = count_least(gate, float(gate.certainty), scale)
    groups = side.groups(num_questions, is_seen)
    number = most_scored(spec.evaluation, gate.metric, len(groups))
    if wanted is not None and number >= wanted:
        return  # how the sizes of groups differ is looked at with all gates
    subject = name_gate(gate)
    if wanted is None:
        raise DataError(
            REASON,
            f"{subject} cannot be shown by any number of held-out prompts, not even with the "
            "best of answers: ask for less",
        )
    remedy = word_more(
        spec,
        side,
        gate.metric,
        is_seen,
        wanted=wanted,
        num_questions=num_questions,
        is_enough=lambda groups: is_enough(gate, groups, scale, seed=spec.dataset.split.seed),
    )
    # What has no limits has no bounds then, whatever is asked for.
    less = "" if gate.metric in UNBOUNDED_METRICS else "ask for less or for less certainty, "
    raise DataError(
        REASON,
        f"{subject} cannot be met on {number} independent held-out prompt(s) of its slice, not "
        f"even with the best of answers (certainty {gate.certainty}); {wanted} are the least that "
        f"could show it: {remedy}, {less}or set severity: Warn",
    )


def _require_probes(gate: Gate, number: int) -> None:
    """Refuse a gate on probes of which there are too few, whatever is held out."""
    certainty = float(gate.certainty)
    wanted = count_least(gate, certainty, HITS)
    if wanted is not None and number >= wanted:
        return
    best = lowest_bound_of_best(number, certainty)
    if gate.at_most is not None:
        bound, remedy = f"upper bound would be {1 - best:.3f}", f"{_up(1 - best)} or more"
    else:
        best = best if gate.at_least is not None else highest_gain_bound(number, certainty)
        bound, remedy = f"lower bound would be {best:.3f}", f"{_down(best)} or less"
    other = "" if gate.over_base is not None else "for overBase in its place, "
    raise DataError(
        REASON,
        f"{name_gate(gate)} of {gate.metric} cannot be met: there are {number} such probes, "
        f"whatever is held out, and with the best of answers its {bound} (certainty "
        f"{gate.certainty}): ask for {remedy}, {other}for less certainty, or set severity: Warn",
    )


def _up(bound: float) -> str:
    return f"{math.ceil(bound * 100 - 1e-9) / 100:.2f}"


def _down(bound: float) -> str:
    return f"{math.floor(bound * 100 + 1e-9) / 100:.2f}"
