"""What sections of several sources show: figures of both models, and prompts that got worse."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from finetune_api.protocol.evaluation_result import Score

NUM_WORSENED = 12
MAX_CHARACTERS = 600
FIGURE_COLUMNS: tuple[Mapping[str, object], ...] = (
    {"label": "base", "number": True},
    {"label": "tuned", "number": True},
    {"label": "tuned \N{MINUS SIGN} base", "number": True},
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Worsened:
    """A prompt that the tuned model does worse on.

    Attributes:
        metric: What it counts for.
        shown: The prompt, for people.
        base: The base model's answer.
        tuned: The tuned model's answer.
    """

    metric: str
    shown: str
    base: str
    tuned: str


def figure_cells(score: Score) -> list[str]:
    """Return base, tuned and their difference with intervals, for :data:`FIGURE_COLUMNS`."""
    gain = float(score.tuned) - float(score.base)
    return [
        f"{score.base} ({score.base_low} to {score.base_high})",
        f"{score.tuned} ({score.tuned_low} to {score.tuned_high})",
        f"{gain:+.4f} ({score.delta_low} to {score.delta_high})",
    ]


def cut_words(text: str) -> str:
    """Return the beginning of a long text."""
    return text if len(text) <= MAX_CHARACTERS else text[: MAX_CHARACTERS - 1] + "…"
