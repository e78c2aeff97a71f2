"""Refuses gates that the held-out side could not show, before anything is trained."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from finetune_api.v1alpha1.finetunejob import FineTuneJobSpec
from finetune_api.v1alpha1.gates import Gate, GateSlice
from finetune_api.v1alpha1.judging import most_scored
from finetune_api.v1alpha1.scoring import JUDGE_METRICS, LOWER_IS_BETTER, UNBOUNDED_METRICS
from finetune_trainer.data.asking import draw_questions
from finetune_trainer.data.rows import group_of
from finetune_trainer.errors import DataError
from finetune_trainer.prepare.decidable import ADD, scale_of
from finetune_trainer.prepare.held_out import digest_of, is_inside, read_rows, source_of
from finetune_trainer.statistics.needed import Scale, count_for_best, count_for_gain

MAX_SOURCES_NAMED = 8


def require_gates(spec: FineTuneJobSpec, folder: Path, *, num_questions: int) -> None:
    """Refuse gates on slices without rows, and gates that no answers could meet.

    Args:
        spec: The job's spec.
        folder: The prepared data set.
        num_questions: Held-out questions that are asked at most.

    Raises:
        DataError: ``GateSliceEmpty``, ``GateUndecidable``; names the gate.
    """
    gates = spec.evaluation.gates
    if not gates:
        return
    counts, sources = _count_prompts(spec, folder, num_questions)
    for gate in gates:
        if gate.slice is not None and not counts[gate.name].there:
            raise DataError("GateSliceEmpty", _empty_text(gate, gate.slice, sources))
    for gate in gates:
        if gate.severity == "Block":
            most = most_scored(spec.evaluation, gate.metric, num_questions)
            _require_decidable(gate, counts[gate.name], most, scale_of(gate.metric, folder))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Prompts:
    """Independent held-out prompts that a gate looks at: all, and those that models are asked."""

    there: int
    asked: int


def _count_prompts(
    spec: FineTuneJobSpec, folder: Path, num_questions: int
) -> tuple[Mapping[str, _Prompts], Sequence[str]]:
    """Return the prompts that each gate looks at, and the names of all files."""
    gates, asked = spec.evaluation.gates, _draw(spec, folder, num_questions)
    groups: dict[str, tuple[set[str], set[str]]] = {gate.name: (set(), set()) for gate in gates}
    sources: dict[str, None] = {}
    for row in read_rows(folder):
        sources[source_of(row)] = None
        if row.get("label") is False:
            continue
        is_asked = asked is None or digest_of(row) in asked
        for gate in gates:
            is_scored = "text" not in row or gate.metric in LOWER_IS_BETTER
            if is_scored and (gate.slice is None or is_inside(row, gate.slice)):
                for found in groups[gate.name][: 1 + is_asked]:
                    found.add(group_of(row))
    counts = {name: _Prompts(there=len(a), asked=len(b)) for name, (a, b) in groups.items()}
    return counts, list(sources)


def _draw(spec: FineTuneJobSpec, folder: Path, most: int) -> set[bytes] | None:
    """Return the questions that the evaluation will draw, by digest; None where it asks all."""
    rows = (row for row in read_rows(folder) if row.get("label") is not False)
    digests = list(dict.fromkeys(map(digest_of, rows)))
    if len(digests) <= most:
        return None
    return {
        digests[place]
        for place in draw_questions(len(digests), most=most, seed=spec.dataset.split.seed)
    }


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


def _require_decidable(gate: Gate, prompts: _Prompts, most: int, scale: Scale) -> None:
    """Refuse a gate whose bound misses with every answer as good as can be."""
    wanted, asked = _least_wanted(gate, scale)
    number = min(prompts.asked, most)
    if not asked or (wanted is not None and number >= wanted):
        return
    subject = f"evaluation.gates: gate {gate.name}: {asked}"
    if wanted is None:
        raise DataError(
            "GateUndecidable",
            f"{subject} cannot be shown by any number of held-out prompts, not even with the "
            "best of answers: ask for less",
        )
    is_judged = gate.metric in JUDGE_METRICS
    raise_most = "evaluation.judge.sample and maxCalls" if is_judged else "evaluation.maxSamples"
    remedy = f"raise {raise_most} from {most}" if prompts.there >= wanted else ADD
    raise DataError(
        "GateUndecidable",
        f"{subject} cannot be met on {number} independent held-out prompt(s) of its slice, not "
        f"even with the best of answers (certainty {gate.certainty}); {wanted} are the least that "
        f"could show it: {remedy}, ask for less or for less certainty, or set severity: Warn",
    )


def _least_wanted(gate: Gate, scale: Scale) -> tuple[int | None, str]:
    """Return how many prompts could show a gate, and its field; an empty field if any may."""
    if "." in gate.metric:
        return 1, ""  # what other rooms measure is not of these rows
    is_unbounded = gate.metric in UNBOUNDED_METRICS  # what has no best value has no bound for it
    certainty = float(gate.certainty)

    def count(of: Callable[[float, float, Scale], int | None], threshold: float) -> int | None:
        return 1 if is_unbounded else of(threshold, certainty, scale)

    if gate.at_least is not None:
        return count(count_for_best, float(gate.at_least)), f"atLeast {gate.at_least}"
    if gate.at_most is not None:
        return count(count_for_best, 1 - float(gate.at_most)), f"atMost {gate.at_most}"
    if gate.over_base is not None:
        return count(count_for_gain, float(gate.over_base)), f"overBase {gate.over_base}"
    assert gate.over_published is not None
    gain = float(gate.over_published)
    return count(count_for_gain, gain), f"overPublished {gate.over_published}"
