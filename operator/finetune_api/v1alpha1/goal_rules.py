"""Rules on what a verdict is based on."""

from __future__ import annotations

from decimal import Decimal

from finetune_api.meta import decimal_of
from finetune_api.v1alpha1.rules import Rule

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
)
