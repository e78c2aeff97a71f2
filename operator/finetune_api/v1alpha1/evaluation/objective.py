"""What decides which trial of a sweep is best, and the rules on it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from finetune_api.meta import APIModel, Integer
from finetune_api.rule import Rule
from finetune_api.v1alpha1.evaluation.metric_rules import (
    METRIC_SETTINGS,
    has_validation_rows,
    has_validation_rows_cel,
)
from finetune_api.v1alpha1.evaluation.scoring import (
    JUDGE_METRICS,
    LIKELIHOOD_METRICS,
    LOWER_IS_BETTER,
    ValidationMetric,
)

VALIDATION_LOSS = "validationLoss"

ObjectiveMetric = Literal["validationLoss", ValidationMetric]


class Objective(APIModel):
    """What decides which trial is best, all of it on validation rows.

    Scores that the held-out side is reported by are computed there once, for the trial that was
    chosen: to choose by them would make its result too good.
    """

    metric: ObjectiveMetric | None = None
    """`validationLoss`: the loss of the step whose weights are kept, which training measures
    anyway. A metric of a goal: every trial that is trained to its end then answers validation rows,
    which takes as long as these answers do. Default: the goal's metric; `validationLoss` where
    there is no goal, where its metric is a judge's, and where it is `loss`, `perplexity` or
    `bitsPerByte` of `SFT`, which order trials alike. `earlyStopping` goes by the validation loss
    whatever this is; of equal scores the lower loss wins."""
    direction: Literal["Minimize", "Maximize"] | None = None
    """Which way is better. It follows from the metric, and may be stated: `Minimize` for
    `validationLoss`, `loss`, `perplexity` and `bitsPerByte`, `Maximize` for the others."""
    max_samples: Annotated[Integer, Field(ge=1, le=100000)] = 500
    """Validation rows that a trial answers at most, the same for all; `validationLoss` is of all
    rows."""


def metric_of(spec: Any) -> str:
    """Return the metric that compares the trials of a sweep."""
    if spec.objective.metric is not None:
        return str(spec.objective.metric)
    goal = spec.template.goal
    if goal is None or goal.metric in JUDGE_METRICS:
        return VALIDATION_LOSS
    if goal.metric in LIKELIHOOD_METRICS and spec.template.method.objective == "SFT":
        return VALIDATION_LOSS
    return str(goal.metric)


def is_lower_better(metric: str) -> bool:
    """Return whether less of what trials are compared by is better."""
    return metric == VALIDATION_LOSS or metric in LOWER_IS_BETTER


def direction_of(metric: str) -> str:
    """Return the direction of a metric, as the API has it."""
    return "Minimize" if is_lower_better(metric) else "Maximize"


def _is_lower_cel() -> str:
    lower = sorted({VALIDATION_LOSS, *LIKELIHOOD_METRICS, *JUDGE_METRICS})
    # A judge's metric stands for its substitute.
    metric = (
        "(has(self.objective.metric) ? self.objective.metric : "
        f"has(self.template.goal) ? self.template.goal.metric : '{VALIDATION_LOSS}')"
    )
    return f"({metric} in {lower})"


def _needs(metric: str, attribute: str, field: str, what: str) -> Rule:
    return Rule(
        rule=f"!has(self.objective.metric) || self.objective.metric != '{metric}' || "
        f"has(self.template.evaluation.{field})",
        message=f"objective.metric {metric} needs template.evaluation.{field}, {what}",
        field="objective.metric",
        check=lambda s: (
            s.objective.metric != metric or getattr(s.template.evaluation, attribute) is not None
        ),
    )


OBJECTIVE_RULES: tuple[Rule, ...] = (
    Rule(
        rule=has_validation_rows_cel("self.template"),
        message="trials are compared on validation rows, and there are none: set "
        "template.dataset.split.validationPercent above 0 and have a source that is split, or add "
        "one with side: Validation",
        field="objective",
        check=lambda s: has_validation_rows(s.template),
    ),
    Rule(
        rule=f"!has(self.objective.direction) || "
        f"(self.objective.direction == 'Minimize') == {_is_lower_cel()}",
        message="objective.direction contradicts the metric: it is Minimize for validationLoss, "
        "loss, perplexity and bitsPerByte, and Maximize for all others; leave it out, it follows "
        "from the metric",
        field="objective.direction",
        check=lambda s: s.objective.direction in (None, direction_of(metric_of(s))),
    ),
    *(_needs(*setting) for setting in METRIC_SETTINGS),
    Rule(
        rule="!has(self.objective.metric) || self.objective.metric != 'preferenceAccuracy' || "
        "self.template.method.objective in ['DPO', 'ORPO']",
        message="objective.metric preferenceAccuracy compares pairs of answers: it needs "
        "template.method.objective DPO or ORPO",
        field="objective.metric",
        check=lambda s: (
            s.objective.metric != "preferenceAccuracy"
            or s.template.method.objective in ("DPO", "ORPO")
        ),
    ),
    Rule(
        rule="!has(self.template.evaluation.validation)",
        message="template.evaluation.validation is the sweep's: say in objective what trials are "
        "compared by",
        field="template.evaluation.validation",
        check=lambda s: s.template.evaluation.validation is None,
    ),
)
