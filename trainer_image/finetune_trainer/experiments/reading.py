"""Makes runs of the documents that they leave. Pure: documents in, values out."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from finetune_api.protocol.evaluation_result import EvaluateResult, Score
from finetune_api.protocol.stage_results import ValidationScore
from finetune_trainer.experiments.recipe import flatten
from finetune_trainer.experiments.run import DataFacts, Effort, Points, Row, Run

Document = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Documents:
    """The documents of a run; None or empty where there is nothing yet.

    Attributes:
        job: The effective job, ``job.json``.
        dataset: ``dataset.json``.
        data_report: ``report.json`` of the data set.
        record: ``run.json`` beside the adapter.
        points: ``metrics.jsonl``.
        report: ``report.json`` of the evaluation.
        samples: ``samples.jsonl`` of the evaluation.
        validation_score: ``score.json`` of the answers to validation rows.
        validation_samples: ``samples.jsonl`` beside it.
        status: The FineTuneJob's status, of a job on a cluster.
        result: Output of ``finetune run --result``.
    """

    job: Document
    dataset: Document | None = None
    data_report: Document | None = None
    record: Document | None = None
    points: Sequence[Document] = ()
    report: Document | None = None
    samples: Sequence[Document] = ()
    validation_score: Document | None = None
    validation_samples: Sequence[Document] = ()
    status: Document = field(default_factory=dict)
    result: Document | None = None


def read_run(
    name: str,
    documents: Documents,
    *,
    place: str = "",
    hour_price: float | None = None,
    notes: Iterable[str] = (),
) -> Run:
    """Return a run for comparison.

    ``hour_price`` is of a GPU hour, where the cluster reports no cost. ``notes`` say how the
    documents were read.
    """
    spec, status, record = documents.job["spec"], documents.status, documents.record
    scores, num_samples, version = _evaluation(documents)
    curve = (record or {}).get("curve")
    selection = (record or {}).get("selection") or _selection_of(status)
    step = selection.get("step") or (record or {}).get("step")
    score = _validation_score(documents)
    return Run(
        name=name,
        place=place,
        state=_state(documents),
        recipe=flatten(spec, record),
        data=_data(documents),
        certainty=float((spec.get("goal") or {}).get("certainty") or 0.95),
        scores=scores,
        num_samples=num_samples,
        rows=[_row(sample) for sample in documents.samples],
        validation_score=score,
        validation_rows=_validation_rows(score, documents.validation_samples),
        train=_points(curve["train"]) if curve else _logged(documents.points, "loss"),
        validation=_validation(documents),
        step=step,
        last_step=selection.get("last_step") or step,
        planned_steps=selection.get("planned_steps"),
        effort=_effort(documents, hour_price),
        version=version,
        notes=tuple(notes),
    )


def _validation(documents: Documents) -> Points:
    """Return the validation losses: of the record, of the log, else of the status."""
    curve = (documents.record or {}).get("curve")
    if curve:
        return _points(curve["validation"])
    if logged := _logged(documents.points, "eval_loss"):
        return logged
    told = documents.status.get("selection") or {}
    loss = _number(told.get("validationLoss"))
    return [] if loss is None else [(int(told.get("step") or 0), loss)]


def _validation_score(documents: Documents) -> ValidationScore | None:
    told = documents.validation_score or (documents.status.get("selection") or {}).get("score")
    return ValidationScore.model_validate(told, by_alias=True, by_name=False) if told else None


def _validation_rows(score: ValidationScore | None, samples: Iterable[Document]) -> list[Row]:
    if score is None:
        return []
    return [
        Row(
            question=_name_question(sample),
            group=sample["group"],
            references=tuple(sample["references"]),
            text=str(sample["answer"] or ""),
            scores={score.metric: float(sample["score"])},
            num_tokens=sample.get("num_tokens"),
            num_bytes=sample.get("num_bytes"),
        )
        for sample in samples
    ]


def _state(documents: Documents) -> str:
    if documents.status:
        return str(documents.status.get("phase") or "Pending")
    if documents.report is not None:
        return "Evaluated"
    return "Trained" if documents.record else "Training" if documents.points else "Begun"


def _evaluation(documents: Documents) -> tuple[list[Score], int, int | None]:
    version = documents.status.get("artifact", {}).get("version")
    if documents.report is not None:
        result = EvaluateResult.model_validate(
            documents.report["result"], by_alias=True, by_name=False
        )
        return list(result.scores), result.num_samples, version or result.version
    told = documents.status.get("evaluation", {})
    scores = [
        Score.model_validate(
            {key: each[key] for key in ("name", "base", "tuned", "baseline") if key in each}
        )
        for each in told.get("scores", [])
    ]
    return scores, int(told.get("numSamples") or 0), version


def _selection_of(status: Document) -> Document:
    told = status.get("selection") or {}
    names = {"step": "step", "last_step": "lastStep", "planned_steps": "plannedSteps"}
    return {ours: told.get(theirs) for ours, theirs in names.items()}


def _data(documents: Documents) -> DataFacts:
    dataset = documents.dataset or documents.status.get("dataset") or {}
    rows = dataset.get("rows") or {}
    tokens = documents.status.get("dataset", {}).get("numTokens")
    if tokens is None and documents.data_report is not None:
        tokens = documents.data_report.get("trained", {}).get("train", {}).get("tokens")
    return DataFacts(
        digest=str(dataset.get("digest") or ""),
        train=int(rows.get("train") or 0),
        validation=int(rows.get("validation") or 0),
        test=int(rows.get("test") or 0),
        num_tokens=tokens,
        uri=str(dataset.get("uri") or ""),
    )


def _row(sample: Document) -> Row:
    return Row(
        question=_name_question(sample),
        group=sample.get("group"),
        references=tuple(sample["references"]),
        text=str(sample["tuned"]),
        scores={name: float(both[1]) for name, both in (sample.get("scores") or {}).items()},
        num_tokens=sample.get("num_tokens"),
        num_bytes=sample.get("num_bytes"),
    )


def _name_question(sample: Document) -> str:
    return json.dumps([sample["prompt"], sample["references"]], sort_keys=True)


def _points(points: Iterable[Sequence[float]]) -> Points:
    return [(int(step), float(loss)) for step, loss in points if math.isfinite(loss)]


def _logged(points: Iterable[Document], name: str) -> Points:
    return _points((point["step"], point[name]) for point in points if name in point)


def _effort(documents: Documents, hour_price: float | None) -> Effort:
    tokens = max((int(p["num_tokens"]) for p in documents.points if "num_tokens" in p), default=0)
    status = documents.status
    if status:
        cost = status.get("cost") or {}
        hours = _number(cost.get("gpuHours"))
        amount = _number(cost.get("amount"))
        return Effort(
            tokens=tokens or None,
            seconds=_between(status.get("startTime"), status.get("completionTime")),
            gpu_hours=hours,
            cost=amount if hour_price is None or hours is None else hours * hour_price,
        )
    logged = _logged_seconds(documents)
    recipe = (documents.record or {}).get("recipe", {})
    hours = None
    if logged is not None and recipe.get("use_gpu"):
        hours = logged * recipe["world_size"] / 3600
    whole = (documents.result or {}).get("seconds")
    return Effort(
        tokens=tokens or None,
        seconds=logged if whole is None else float(whole),
        is_training_only=whole is None,
        gpu_hours=hours,
        cost=hours * hour_price if hours is not None and hour_price is not None else None,
    )


def _logged_seconds(documents: Documents) -> float | None:
    """Return the logged training seconds; the final figure leaves out earlier attempts."""
    told = [float(p["train_runtime"]) for p in documents.points if "train_runtime" in p]
    if told and not (documents.record or {}).get("resumedFromStep"):
        return told[-1]
    seconds, before = 0.0, None
    for point in documents.points:
        if "num_tokens" not in point:
            continue
        if before is not None and point.get("tokens_per_second"):
            seconds += max(0.0, point["num_tokens"] - before) / point["tokens_per_second"]
        before = point["num_tokens"]
    return seconds or None


def _between(start: str | None, end: str | None) -> float | None:
    if not start or not end:
        return None
    return (datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds()


def _number(text: Any) -> float | None:
    return None if text in (None, "") else float(text)
