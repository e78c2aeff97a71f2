"""What goal and gates ask. Pure."""

from __future__ import annotations

import json
from dataclasses import dataclass

from finetune_api.v1alpha1.evaluation.gates import GateSlice
from finetune_trainer.statistics.confidence import LEAST_OVER, SLACK, Confidence


@dataclass(frozen=True, kw_only=True, slots=True)
class Rival:
    """What the tuned model must be better than, whatever else is asked.

    Attributes:
        what: What it is, in words that follow "over".
        constant: What is always answered, in words; empty where that is not one text.
        score: What it scores.
        over: The tuned model's score minus that, paired; None where that is not known.
        by: The metric that both are scored by, where it is another one than what is asked.
        is_label: It is the most frequent label.
        problem: Why nothing is known of it; the claim is missed for it.
    """

    what: str = ""
    constant: str = ""
    score: float = 0.0
    over: Confidence | None = None
    by: str = ""
    is_label: bool = False
    problem: str = ""

    def is_missed(self, certainty: float) -> bool:
        """Whether the tuned model is not better than it, with a certainty; not where unknown."""
        return self.over is not None and self.over.interval(certainty).low < LEAST_OVER - SLACK


def describe_slice(part: GateSlice | None) -> str:
    """Return which rows a gate looks at, in words; empty for all."""
    if part is None:
        return ""
    if part.label is not None:
        return f"label {json.dumps(part.label, ensure_ascii=False)}"
    if part.column is not None:
        return f"{part.column} {json.dumps(part.value, ensure_ascii=False)}"
    return f"source {part.source}"
