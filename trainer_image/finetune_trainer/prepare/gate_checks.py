"""Refuses gates that the held-out side could not show, before anything is trained."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from finetune_api.v1alpha1.finetunejob import FineTuneJobSpec
from finetune_api.v1alpha1.gates import Gate, GateSlice
from finetune_api.v1alpha1.judging import most_scored
from finetune_api.v1alpha1.scoring import JUDGE_METRICS, LOWER_IS_BETTER, UNBOUNDED_METRICS
from finetune_trainer.data.label_text import normalize_label
from finetune_trainer.data.rows import Side, group_of, is_in_slice
from finetune_trainer.errors import DataError
from finetune_trainer.prepare.decidable import ADD
from finetune_trainer.prepare.labels import answer_of
from finetune_trainer.statistics.needed import count_for_best, count_for_gain

MAX_SOURCES_NAMED = 8


def require_gates(spec: FineTuneJobSpec, folder: Path) -> None:
    """Refuse gates on slices without rows, and gates that no answers could meet.

    Args:
        spec: The job's spec.
        folder: The prepared data set.

    Raises:
        DataError: ``GateSliceEmpty``, ``GateUndecidable``; names the gate.
    """
    gates = spec.evaluation.gates
    if not gates:
        return
    counts, sources = _count_prompts(gates, folder)
    for gate in gates:
        if gate.slice is not None and not counts[gate.name]:
            raise DataError("GateSliceEmpty", _empty_text(gate, gate.slice, sources))
    for gate in gates:
        if gate.severity == "Block":
            _require_decidable(gate, counts[gate.name], most_scored(spec.evaluation, gate.metric))


def _count_prompts(gates: Sequence[Gate], folder: Path) -> tuple[Mapping[str, int], Sequence[str]]:
    """Return the independent held-out prompts that each gate looks at, and all files' names."""
    groups: dict[str, set[str]] = {gate.name: set() for gate in gates}
    sources: dict[str, None] = {}
    with (folder / f"{Side.TEST}.jsonl").open(encoding="utf-8") as rows:
        for row in map(json.loads, rows):
            sources[_source_of(row)] = None
            if row.get("label") is False:
                continue
            for gate in gates:
                is_scored = "text" not in row or gate.metric in LOWER_IS_BETTER
                if is_scored and (gate.slice is None or _is_inside(row, gate.slice)):
                    groups[gate.name].add(group_of(row))
    return {name: len(found) for name, found in groups.items()}, list(sources)


def _is_inside(row: dict[str, Any], part: GateSlice) -> bool:
    if part.column is not None and part.value is not None:
        return is_in_slice(row, part.column, part.value)
    if part.label is None:
        return _source_of(row) == part.source
    answer = answer_of(row)
    return answer is not None and normalize_label(answer) == normalize_label(part.label)


def _source_of(row: dict[str, Any]) -> str:
    return str(row.get("metadata", {}).get("source", ""))


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


def _require_decidable(gate: Gate, there: int, most: int) -> None:
    """Refuse a gate whose bound misses with every answer as good as can be."""
    wanted, asked = _least_wanted(gate)
    number = min(there, most)
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
    remedy = f"raise {raise_most} from {most}" if there >= wanted else ADD
    raise DataError(
        "GateUndecidable",
        f"{subject} cannot be met on {number} independent held-out prompt(s) of its slice, not "
        f"even with the best of answers (certainty {gate.certainty}); {wanted} are the least that "
        f"could show it: {remedy}, ask for less or for less certainty, or set severity: Warn",
    )


def _least_wanted(gate: Gate) -> tuple[int | None, str]:
    """Return how many prompts could show a gate, and its field; an empty field if any may."""
    certainty = float(gate.certainty)
    if gate.metric in UNBOUNDED_METRICS or "." in gate.metric:
        return 1, ""  # what has no best value has no bound for it
    if gate.at_least is not None:
        return count_for_best(float(gate.at_least), certainty), f"atLeast {gate.at_least}"
    if gate.at_most is not None:
        return count_for_best(1 - float(gate.at_most), certainty), f"atMost {gate.at_most}"
    if gate.over_base is not None:
        return count_for_gain(float(gate.over_base), certainty), f"overBase {gate.over_base}"
    assert gate.over_published is not None
    gain = float(gate.over_published)
    return count_for_gain(gain, certainty), f"overPublished {gate.over_published}"
