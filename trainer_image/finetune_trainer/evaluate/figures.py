"""How the figures of a metric are told: as text, so that nothing is lost between programs. Pure."""

from __future__ import annotations

from finetune_api.evaluation_result import Score
from finetune_trainer.statistics.confidence import Interval


def figure_text(value: float) -> str:
    """Return a figure as reports and statuses have it."""
    return f"{value:.4f}"


def make_score(name: str, *, base: Interval, tuned: Interval, gain: Interval) -> Score:
    """Return a metric's figures as text.

    Args:
        name: The metric.
        base: Of the base model.
        tuned: Of the tuned model.
        gain: Of tuned minus base, row by row.
    """
    return Score(
        name=name,
        base=figure_text(base.value),
        base_low=figure_text(base.low),
        base_high=figure_text(base.high),
        tuned=figure_text(tuned.value),
        tuned_low=figure_text(tuned.low),
        tuned_high=figure_text(tuned.high),
        delta_low=figure_text(gain.low),
        delta_high=figure_text(gain.high),
    )
