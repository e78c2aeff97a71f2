"""Refuses goals and gates that the held-out side could not show, whatever is trained.

It counts the groups of the questions that are drawn, not of all that are held out. It refuses only
what is certain to be missed: the best case of a metric between 0 and 1 is every answer right, and
its bound is known.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence

from finetune_api.v1alpha1.evaluation.gates import GateSlice
from finetune_api.v1alpha1.evaluation.probing import NUM_PROBES
from finetune_api.v1alpha1.evaluation.scoring import CORPUS_METRICS, LIKELIHOOD_METRICS
from finetune_api.v1alpha1.finetunejob import FineTuneJobSpec
from finetune_trainer.data.answers.label_text import MAX_LABELS
from finetune_trainer.data.held_out import HeldOut, HeldOutSplit
from finetune_trainer.errors import DataError
from finetune_trainer.statistics.needed import count_of_gains
from finetune_trainer.verdict.best_case import ADD, BestCase
from finetune_trainer.verdict.hypotheses import of_gate, of_goal
from finetune_trainer.verdict.joint_gates import GATE_REASON, require_gates_together

LABEL_METRICS = ("exactMatch", "macroF1")
GOAL_REASON = "GoalUndecidable"
MAX_SOURCES_NAMED = 8


def require_decidable_goal(
    spec: FineTuneJobSpec, side: HeldOutSplit, *, num_questions: int
) -> None:
    """Refuse a goal that the held-out side could not show with the best of answers.

    Args:
        spec: The job's spec.
        side: The held-out side.
        num_questions: Held-out questions that are asked at most.

    Raises:
        DataError: The bound of the best scores misses the goal, or its metric does not fit.
    """
    goal = spec.goal
    if goal is None or goal.metric in LIKELIHOOD_METRICS:
        return  # a loss has no best value that would bound it
    if goal.metric == "contains":
        _refuse_listed_labels(side, num_questions)
    for hypothesis in of_goal(goal):
        _require_prompts(
            BestCase(spec=spec, side=side, hypothesis=hypothesis, num_questions=num_questions)
        )
    if goal.metric in LABEL_METRICS:
        _require_other_labels(goal.metric, goal.certainty, side, num_questions)


def _require_other_labels(
    metric: str, certainty: str, side: HeldOutSplit, num_questions: int
) -> None:
    """Refuse labels of which nearly all are alike: a model must be better than always giving it."""
    counts = count_labels(side.drawn(num_questions))
    if not counts:
        return
    number = counts.total()
    others = number - max(counts.values())
    least = count_of_gains(float(certainty))
    if others >= least:
        return
    more = f", raise evaluation.maxSamples from {num_questions}"
    raise DataError(
        GOAL_REASON,
        f"goal.metric {metric} cannot be met: {others} of {number} held-out rows have another "
        "label than the most frequent one, and a model must be better than always giving that; "
        f"{least} are the least that could show it (goal.certainty {certainty}): {ADD}"
        f"{more if num_questions < len(side.questions) else ''}",
    )


def _refuse_listed_labels(side: HeldOutSplit, num_questions: int) -> None:
    """Refuse to look for a label in an answer: one that lists all labels has it."""
    counts = count_labels(side.drawn(num_questions))
    if not 1 < len(counts) <= MAX_LABELS:
        return
    raise DataError(
        "MetricUnsuitable",
        f"goal.metric contains does not fit: the held-out answers are {len(counts)} labels, and an "
        "answer that lists all of them contains the right one of each row. Use goal.metric "
        "exactMatch, or macroF1 for rare labels",
    )


def count_labels(questions: list[HeldOut]) -> Counter[bytes]:
    """Count the labels of questions that are answered; nothing where some answer is none."""
    counts: Counter[bytes] = Counter()
    for question in questions:
        if not question.has_prompt:
            continue
        if question.label is None:
            return Counter()
        counts[question.label] += 1
    return counts if 2 * len(counts) <= counts.total() else Counter()


def require_gates(spec: FineTuneJobSpec, side: HeldOutSplit, *, num_questions: int) -> None:
    """Refuse gates on slices without rows, and gates that no answers could meet.

    Args:
        spec: The job's spec.
        side: The held-out side, read with the job's gates.
        num_questions: Held-out questions that are asked at most.

    Raises:
        DataError: ``GateSliceEmpty``, ``GateUndecidable``; names the gate.
    """
    asked = [(gate, of_gate(gate)) for gate in spec.evaluation.gates]
    for gate, hypothesis in asked:
        if gate.slice is not None and not any(map(hypothesis.sees, side.questions)):
            field = f"evaluation.gates: gate {gate.name}: slice"
            raise DataError("GateSliceEmpty", _word_empty(field, gate.slice, side.sources))
    for gate, hypothesis in asked:
        case = BestCase(spec=spec, side=side, hypothesis=hypothesis, num_questions=num_questions)
        if gate.severity == "Block" and gate.metric in NUM_PROBES:
            _require_probes(case)
        elif gate.severity == "Block" and "." not in gate.metric:  # others are not known here
            _require_prompts(case)
    require_gates_together(spec, side, num_questions=num_questions)


def _word_empty(field: str, part: GateSlice, sources: Sequence[str]) -> str:
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


def _require_prompts(case: BestCase) -> None:
    """Refuse a goal or a gate that sees too few prompts."""
    hypothesis, number, wanted = case.hypothesis, case.num_prompts, case.wanted
    reason, subject = GOAL_REASON, hypothesis.place
    sees = (
        ": with every answer right, and none of the base model's, its lower bound would be "
        f"{case.bound:.3f}{' at most' if hypothesis.metric in CORPUS_METRICS else ''} "
        f"(goal.certainty {hypothesis.certainty}). "
    )
    less = "or lower the goal or its certainty"
    if hypothesis.gate is not None:
        reason, subject = GATE_REASON, f"evaluation.gates: {hypothesis.place}"
        sees = (
            f" of its slice, not even with the best of answers (certainty {hypothesis.certainty}); "
        )
        # Asking for less does not help a metric without limits: it has no bounds on few prompts.
        less = "ask for less or for less certainty, " if hypothesis.is_bounded else ""
        less += "or set severity: Warn"
    if wanted is None:
        raise DataError(
            reason,
            f"{subject} cannot be shown by any number of held-out prompts, not even with the "
            "best of answers: ask for less",
        )
    if number < wanted:
        raise DataError(
            reason,
            f"{subject} cannot be met on {number} independent held-out prompt(s){sees}{wanted} are "
            f"the least that could show it: {case.word_more(wanted)}, {less}",
        )


def _require_probes(case: BestCase) -> None:
    """Refuse a gate on probes of which there are too few, whatever is held out."""
    hypothesis, number, wanted, best = case.hypothesis, case.num_prompts, case.wanted, case.bound
    if wanted is not None and number >= wanted:
        return
    if hypothesis.field == "atMost":
        bound, remedy = f"upper bound would be {1 - best:.3f}", f"{_up(1 - best)} or more"
    else:
        bound, remedy = f"lower bound would be {best:.3f}", f"{_down(best)} or less"
    other = "" if hypothesis.field == "overBase" else "for overBase in its place, "
    raise DataError(
        GATE_REASON,
        f"evaluation.gates: {hypothesis.place} of {hypothesis.metric} cannot be met: there are "
        f"{number} such probes, whatever is held out, and with the best of answers its {bound} "
        f"(certainty {hypothesis.certainty}): ask for {remedy}, {other}for less certainty, or set "
        "severity: Warn",
    )


def _up(bound: float) -> str:
    return f"{math.ceil(bound * 100 - 1e-9) / 100:.2f}"


def _down(bound: float) -> str:
    return f"{math.floor(bound * 100 + 1e-9) / 100:.2f}"
