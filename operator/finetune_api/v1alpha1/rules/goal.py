"""Rules on what a verdict is based on."""

from __future__ import annotations

from decimal import Decimal
from typing import get_args

from finetune_api.meta import decimal_of
from finetune_api.rule import Rule
from finetune_api.v1alpha1.evaluation.scoring import UNBOUNDED_METRICS, GoalMetric

_UNBOUNDED = sorted(UNBOUNDED_METRICS & set(get_args(GoalMetric)))
_LEAST, _MOST = "0.5", "0.999"

GOAL_RULES: tuple[Rule, ...] = (
    Rule(
        rule=(
            f"!has(self.goal) || (double(self.goal.certainty) >= {_LEAST} && "
            f"double(self.goal.certainty) <= {_MOST})"
        ),
        message=f"goal.certainty must be from {_LEAST} to {_MOST}: write 0.95 for 95 percent",
        field="goal.certainty",
        check=lambda s: (
            s.goal is None or Decimal(_LEAST) <= decimal_of(s.goal.certainty) <= Decimal(_MOST)
        ),
    ),
    Rule(
        rule="!has(self.goal) || !has(self.goal.overBase) || double(self.goal.overBase) >= 0.0",
        message=(
            "goal.overBase must not be negative: to let the tuned model be worse than its base by "
            "a little, use a gate in evaluation.gates, whose overBase may be -0.02"
        ),
        field="goal.overBase",
        check=lambda s: (
            s.goal is None or s.goal.over_base is None or decimal_of(s.goal.over_base) >= 0
        ),
        only_new=True,
    ),
    Rule(
        rule=(
            "!has(self.goal) || !has(self.goal.overBase) || double(self.goal.overBase) < 1.0 || "
            f"self.goal.metric in {_UNBOUNDED}"
        ),
        message=(
            "goal.overBase must be below 1 for scores between 0 and 1: write 0.3 for 30 percentage "
            "points"
        ),
        field="goal.overBase",
        check=lambda s: (
            s.goal is None
            or s.goal.over_base is None
            or decimal_of(s.goal.over_base) < 1
            or s.goal.metric in _UNBOUNDED
        ),
        only_new=True,
    ),
)
