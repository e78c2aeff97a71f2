"""Rules on metrics and their settings."""

from __future__ import annotations

from typing import Any

from finetune_api.meta import decimal_of
from finetune_api.rule import Rule

METRIC_SETTINGS = (
    ("jsonSchemaValid", "json_schema", "jsonSchema", "the schema that answers are held against"),
    ("regexMatch", "answer_pattern", "answerPattern", "the regular expression to look for"),
    ("custom", "custom_metric", "customMetric", "the file and function that score an answer"),
)


def asks_for(spec: Any, metric: str) -> bool:
    """Whether the goal, the list of metrics or a gate names a metric."""
    is_goal = spec.goal is not None and spec.goal.metric == metric
    gates = (gate.metric for gate in spec.evaluation.gates)
    return (
        is_goal
        or metric in spec.evaluation.metrics
        or metric in gates
        or scores_validation_by(spec, metric)
    )


def scores_validation_by(spec: Any, metric: str) -> bool:
    """Whether answers to validation rows are scored by a metric."""
    scoring = spec.evaluation.validation
    return scoring is not None and scoring.metric == metric


def has_validation_rows(spec: Any) -> bool:
    """Whether the data set has a side to validate on."""
    is_split = spec.dataset.split.validation_percent > 0
    return any(
        source.side == "Validation" or (is_split and source.side == "Split")
        for source in spec.dataset.sources
    )


def has_validation_rows_cel(spec: str) -> str:
    """The same in CEL.

    Args:
        spec: What stands for the spec of the job, such as ``self``.
    """
    return (
        f"{spec}.dataset.sources.exists(s, s.side == 'Validation' || (s.side == 'Split' && "
        f"{spec}.dataset.split.validationPercent > 0))"
    )


def _lists_cel(metric: str) -> str:
    # The API server fills in no empty list.
    return f"(has(self.evaluation.metrics) && self.evaluation.metrics.exists(m, m == '{metric}'))"


def _gates_cel(metric: str) -> str:
    return (
        f"(has(self.evaluation.gates) && self.evaluation.gates.exists(g, g.metric == '{metric}'))"
    )


def _validation_cel(metric: str) -> str:
    return f"(has(self.evaluation.validation) && self.evaluation.validation.metric == '{metric}')"


def needed_cel(metric: str, given: str) -> tuple[str, str]:
    """Return CEL of the need of a metric wherever the job uses it.

    Args:
        metric: The metric.
        given: CEL over ``self.evaluation``, true where the need is met.
    """
    listed = " || ".join((_lists_cel(metric), _gates_cel(metric), _validation_cel(metric)))
    is_other_goal = f"!has(self.goal) || self.goal.metric != '{metric}'"
    return f"{is_other_goal} || {given}", f"{given} || !({listed})"


def _needs(metric: str, attribute: str, field: str, what: str) -> Rule:
    return Rule(
        rule=needed_cel(metric, f"has(self.evaluation.{field})"),
        message=f"metric {metric} needs evaluation.{field}, {what}",
        field=f"evaluation.{field}",
        check=lambda s: getattr(s.evaluation, attribute) is not None or not asks_for(s, metric),
    )


METRIC_RULES: tuple[Rule, ...] = (
    *(_needs(*setting) for setting in METRIC_SETTINGS),
    Rule(
        rule=f"!has(self.evaluation.validation) || {has_validation_rows_cel('self')}",
        message="evaluation.validation scores answers to validation rows, and there are none: set "
        "dataset.split.validationPercent above 0 and have a source that is split, or add one with "
        "side: Validation",
        field="evaluation.validation",
        check=lambda s: s.evaluation.validation is None or has_validation_rows(s),
    ),
    Rule(
        rule=(
            f"!{_validation_cel('preferenceAccuracy')} || self.method.objective in ['DPO', 'ORPO']"
        ),
        message=(
            "evaluation.validation.metric: preferenceAccuracy compares pairs of answers: it needs "
            "method.objective DPO or ORPO"
        ),
        field="evaluation.validation.metric",
        check=lambda s: (
            not scores_validation_by(s, "preferenceAccuracy")
            or s.method.objective in ("DPO", "ORPO")
        ),
    ),
    Rule(
        rule=(
            "!has(self.evaluation.jsonSchema) || "
            "has(self.evaluation.jsonSchema.text) != has(self.evaluation.jsonSchema.uri)"
        ),
        message="evaluation.jsonSchema needs text or uri, and not both",
        field="evaluation.jsonSchema",
        check=lambda s: (
            s.evaluation.json_schema is None
            or (s.evaluation.json_schema.text is None) != (s.evaluation.json_schema.uri is None)
        ),
    ),
    Rule(
        rule=(f"!{_lists_cel('preferenceAccuracy')} || self.method.objective in ['DPO', 'ORPO']"),
        message=(
            "evaluation.metrics: preferenceAccuracy compares pairs of answers: it needs "
            "method.objective DPO or ORPO"
        ),
        field="evaluation.metrics",
        check=lambda s: (
            "preferenceAccuracy" not in s.evaluation.metrics
            or s.method.objective in ("DPO", "ORPO")
        ),
    ),
    Rule(
        rule=(f"!{_gates_cel('preferenceAccuracy')} || self.method.objective in ['DPO', 'ORPO']"),
        message=(
            "evaluation.gates: preferenceAccuracy compares pairs of answers: it needs "
            "method.objective DPO or ORPO"
        ),
        field="evaluation.gates",
        check=lambda s: (
            s.method.objective in ("DPO", "ORPO")
            or all(gate.metric != "preferenceAccuracy" for gate in s.evaluation.gates)
        ),
    ),
    Rule(
        rule=(
            "!has(self.evaluation.numberTolerance) || "
            "double(self.evaluation.numberTolerance.relative) < 1.0"
        ),
        message=(
            "evaluation.numberTolerance.relative must be below 1: write 0.01 for one percent of "
            "the reference"
        ),
        field="evaluation.numberTolerance.relative",
        check=lambda s: (
            s.evaluation.number_tolerance is None
            or decimal_of(s.evaluation.number_tolerance.relative) < 1
        ),
    ),
)
