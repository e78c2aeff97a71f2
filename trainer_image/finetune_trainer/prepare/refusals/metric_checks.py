"""Refuses metrics that the held-out rows cannot answer, before anything is trained."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from finetune_api.messages.answer_checks import find_pattern_error
from finetune_api.v1alpha1.evaluation.judging import METRIC_OF_MODE
from finetune_api.v1alpha1.evaluation.scoring import LIKELIHOOD_METRICS
from finetune_api.v1alpha1.finetunejob import FineTuneJobSpec
from finetune_trainer.data.answers.schema import fetch_schema
from finetune_trainer.data.answers.values import ABSENT, read_json_value, read_number
from finetune_trainer.data.general_texts import fetch_texts
from finetune_trainer.data.rows import Side, answer_of
from finetune_trainer.errors import DataError, UserError
from finetune_trainer.storage import StorageAccess


def _is_json(text: str) -> bool:
    return read_json_value(text) is not ABSENT


def _has_number(text: str) -> bool:
    return read_number(text) is not None


_NEEDS: dict[str, tuple[Callable[[str], bool], str]] = {
    "jsonEqual": (_is_json, "is no JSON"),
    "jsonFieldF1": (_is_json, "is no JSON"),
    "numberClose": (_has_number, "has no number"),
}
"""What every reference must be for a metric, and the message about one that is not."""


def require_metrics(spec: FineTuneJobSpec, folder: Path, access: StorageAccess) -> None:
    """Refuse unusable checks of answers, and metrics that their references do not fit.

    Raises:
        UserError: ``JsonSchemaUnusable``, ``JsonSchemaNotFound``, ``AnswerPatternUnusable``,
            ``GeneralTextsUnusable``, ``GeneralTextsNotFound``.
        DataError: ``MetricUnsuitable``; names the metric, the file and the line.
            ``NothingToReview``.
        StorageError: Storage failed.
    """
    evaluation = spec.evaluation
    fetch_schema(evaluation, access)
    if evaluation.forgetting is not None and evaluation.forgetting.texts is not None:
        fetch_texts(evaluation.forgetting.texts.uri, access, seed=0)
    if problem := find_pattern_error(evaluation.answer_pattern or ""):
        raise UserError("AnswerPatternUnusable", f"evaluation.answerPattern is {problem}")
    gates = [gate.metric for gate in evaluation.gates if "." not in gate.metric]
    names = {*evaluation.metrics, *([spec.goal.metric] if spec.goal else []), *gates}
    if evaluation.judge is not None:
        names.add(METRIC_OF_MODE[evaluation.judge.mode])
    if evaluation.review is not None:
        _require_answers(folder)
    if evaluation.number_tolerance is not None:
        names.add("numberClose")
    of_answers = sorted(names.difference(LIKELIHOOD_METRICS))
    if of_answers and not any("text" not in row for row in _rows(folder)):
        raise DataError(
            "MetricUnsuitable",
            f"{_field(spec, of_answers[0])} compares answers, and every held-out row is plain text "
            "without one; use loss, perplexity or bitsPerByte, or hold out rows with answers",
        )
    for name in sorted(names & _NEEDS.keys()):
        _require_fit(folder, Side.TEST, name, _field(spec, name))
    _require_scorable(spec, folder)


def _require_fit(folder: Path, side: Side, metric: str, field: str) -> None:
    fits, words = _NEEDS[metric]
    unfit = [line for line, answer in _answers(folder, side) if not fits(answer)]
    if unfit:
        kind = "held-out" if side is Side.TEST else side
        raise DataError(
            "MetricUnsuitable",
            f"{field} does not fit {len(unfit)} {kind} answer(s): the one in line {unfit[0]} of "
            f"{side}.jsonl {words}; correct the rows, or ask for another metric in goal.metric, "
            "evaluation.metrics and evaluation.gates",
        )


def _require_scorable(spec: FineTuneJobSpec, folder: Path) -> None:
    """Refuse a validation side whose answers cannot be scored as the job, or its sweep, asks."""
    scoring = spec.evaluation.validation
    if scoring is None:
        return
    field = f"evaluation.validation.metric {scoring.metric}"
    is_answer = scoring.metric not in LIKELIHOOD_METRICS
    if is_answer and all("text" in row for row in _rows(folder, Side.VALIDATION)):
        raise DataError(
            "MetricUnsuitable",
            f"{field} compares answers, and every validation row is plain text without one; use "
            "loss, perplexity or bitsPerByte, or validationLoss as the objective of a sweep",
        )
    if scoring.metric in _NEEDS:
        _require_fit(folder, Side.VALIDATION, scoring.metric, field)


def _require_answers(folder: Path) -> None:
    if not any("text" not in row for row in _rows(folder)):
        raise DataError(
            "NothingToReview",
            "evaluation.review shows people answers, and every held-out row is plain text without "
            "one; leave review out, or hold out rows with answers",
        )


def _field(spec: FineTuneJobSpec, metric: str) -> str:
    if spec.goal is not None and spec.goal.metric == metric:
        return f"goal.metric {metric}"
    for gate in spec.evaluation.gates:
        if gate.metric == metric:
            return f"evaluation.gates: gate {gate.name}: metric {metric}"
    return f"evaluation.metrics: {metric}"


def _rows(folder: Path, side: Side = Side.TEST) -> Iterator[dict[str, Any]]:
    with (folder / f"{side}.jsonl").open(encoding="utf-8") as rows:
        yield from map(json.loads, rows)


def _answers(folder: Path, side: Side) -> Iterator[tuple[int, str]]:
    for line, row in enumerate(_rows(folder, side), start=1):
        answer = answer_of(row)
        if answer is not None:
            yield line, answer
