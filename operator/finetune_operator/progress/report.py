"""The report that a trainer pushes, and its part in the status. Pure.

The body is that of transformers' ``KubeflowCallback``, so any Hugging Face trainer image can
report. Our own trainer adds a ``finetune`` object with exact steps. Results in the body are
ignored: they come from termination messages.
"""

from __future__ import annotations

import math
from datetime import datetime, timedelta
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic.alias_generators import to_camel

from finetune_api.protocol.stage_results import decimal_text
from finetune_api.protocol.trainer import Stage
from finetune_api.v1alpha1.status.fields import MAX_COUNT, Count
from finetune_api.v1alpha1.status.plan import PlanStatus
from finetune_api.v1alpha1.status.progress import ValidationStatus
from finetune_operator.status.conditions import timestamp

MAX_METRICS = 24
_STEPS = "total_steps"

# Derived figures of the Hugging Face trainer that do not describe the model.
_NOISE = frozenset({_STEPS, "total_flos", "train_runtime", "epoch"})


class _Lenient(BaseModel):
    """Foreign trainers may send more fields; unknown ones are ignored."""

    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=True, extra="ignore", frozen=True
    )


class ReportedMetric(_Lenient):
    """One named number."""

    name: Annotated[str, Field(max_length=63)]
    value: str | float


class TrainerStatus(_Lenient):
    """The part that transformers defines."""

    progress_percentage: float | None = None
    estimated_remaining_seconds: float | None = None
    metrics: Annotated[list[ReportedMetric], Field(max_length=256)] = []
    last_updated_time: str | None = None


class OwnStatus(_Lenient):
    """The part that only our trainer sends."""

    step: Count | None = None
    total_steps: Count | None = None
    epoch: float | str | None = None
    plan: PlanStatus | None = None
    validation: ValidationStatus | None = None

    @field_validator("plan", "validation", mode="before")
    @classmethod
    def _drop_foreign_section(cls, value: Any, info: ValidationInfo) -> Any:
        # A trainer image of another version may use other words; its progress counts.
        kind = PlanStatus if info.field_name == "plan" else ValidationStatus
        try:
            return None if value is None else kind.model_validate(value)
        except ValidationError:
            return None


class Report(_Lenient):
    """One push."""

    trainer_status: TrainerStatus = TrainerStatus()
    finetune: OwnStatus = OwnStatus()


def progress_section(
    report: Report, stage: Stage, now: datetime, before: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Return ``status.progress``.

    Args:
        report: The pushed report.
        stage: Stage of the pod. Other stages than training count rows, so only their share is
            shown.
        now: Time of the push.
        before: The present ``status.progress``.
    """
    theirs, ours = report.trainer_status, report.finetune
    total = ours.total_steps
    if total is None:
        total = _whole(next((m.value for m in theirs.metrics if m.name == _STEPS), None))
    percent = theirs.progress_percentage
    if percent is None and ours.step is not None and total:
        percent = 100 * ours.step / total
    section: dict[str, Any] = {"stage": stage.value, "lastHeartbeatTime": timestamp(now)}
    steps: dict[str, Any] = {"step": ours.step, "totalSteps": total}
    if stage is not Stage.TRAIN:
        steps = {key: (before or {}).get(key) for key in steps}
    section |= {key: value for key, value in steps.items() if value is not None}
    if percent is not None and math.isfinite(percent):
        section["percent"] = int(max(0, min(100, percent)))
    epoch = _decimal(ours.epoch)
    if epoch is not None:
        section["epoch"] = epoch
    left = theirs.estimated_remaining_seconds
    if left is not None and 0 <= left < 1e9:
        section["estimatedCompletionTime"] = timestamp(now + timedelta(seconds=int(left)))
    return section


def metrics_section(report: Report) -> list[dict[str, Any]]:
    """Return ``status.metrics``: finite numbers, each name once, the last value wins."""
    values: dict[str, dict[str, Any]] = {}
    for metric in report.trainer_status.metrics:
        text = _decimal(metric.value)
        if text is None or metric.name in _NOISE or not metric.name:
            continue
        entry: dict[str, Any] = {"name": metric.name, "value": text}
        if report.finetune.step is not None:
            entry["step"] = report.finetune.step
        values[metric.name] = entry
    return list(values.values())[:MAX_METRICS]


def _decimal(value: object) -> str | None:
    """Return a number as a short decimal string; None if it is not a finite number."""
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    return decimal_text(number) if math.isfinite(number) else None


def _whole(value: object) -> int | None:
    text = _decimal(value)
    return None if text is None else int(min(max(0.0, float(text)), MAX_COUNT))
