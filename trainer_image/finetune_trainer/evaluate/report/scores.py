"""The table of scores: the base model in each way it was asked and the tuned one, side by side."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from finetune_api.protocol.evaluation_result import EvaluateResult, Score
from finetune_api.v1alpha1.evaluation.scoring import BASELINE_WORDS, LOWER_IS_BETTER, BaselineName
from finetune_api.v1alpha1.evaluation.spec import Goal

BAR_WIDTH = 120
WAYS: tuple[BaselineName, ...] = ("AsIs", "Prompted", "Likelihood")


@dataclass(frozen=True, kw_only=True, slots=True)
class Bar:
    """Positions along a scale from 0 to 1, in pixels: where base and tuned model stand."""

    base: float
    tuned: float
    low: float
    high: float
    words: str
    width: int = BAR_WIDTH


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """One figure.

    Attributes:
        column: What it is headed by; a phone shows that beside it.
        value: The figure; empty where it was not measured.
        notes: What stands below it: its interval, what it is.
        is_compared: Whether the tuned model is compared with it.
    """

    column: str
    value: str = ""
    notes: tuple[str, ...] = ()
    is_compared: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoreRow:
    """One metric; ``asked`` is what the goal asks of it, empty for all other metrics."""

    name: str
    cells: list[Cell]
    is_goal: bool
    asked: str
    lower_is_better: bool
    bar: Bar | None


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoreSection:
    """The table: what its columns of figures are headed by, and its rows."""

    columns: list[str]
    rows: list[ScoreRow]
    trivial: str


def describe_scores(result: EvaluateResult, goal: Goal | None) -> ScoreSection:
    """Return what the page shows of scores.

    Args:
        result: The scores.
        goal: The job's goal.
    """
    tried = {each.asked for score in result.scores for each in score.baselines or ()}
    ways = [way for way in WAYS if way in tried]
    has_constant = any(score.constant for score in result.scores)
    rows = [_row(score, ways, goal, has_constant=has_constant) for score in result.scores]
    return ScoreSection(
        columns=[cell.column for cell in rows[0].cells] if rows else [],
        rows=rows,
        trivial=result.trivial,
    )


def goal_words(goal: Goal | None) -> list[str]:
    """Return what a goal asks, each threshold in words."""
    if goal is None:
        return []
    words = []
    if goal.at_least is not None:
        words.append(f"at least {goal.at_least}")
    if goal.at_most is not None:
        words.append(f"at most {goal.at_most}")
    if goal.over_base is not None:
        direction = "below" if goal.metric in LOWER_IS_BETTER else "above"
        words.append(f"{goal.over_base} {direction} the base model")
    return words


def _row(
    score: Score, ways: Sequence[BaselineName], goal: Goal | None, *, has_constant: bool
) -> ScoreRow:
    is_goal = goal is not None and goal.metric == score.name
    change = float(score.tuned) - float(score.base)
    gain = f"{change:+,.0f}" if 1000 <= abs(change) < math.inf else f"{change:+.4f}"
    cells = [
        *_base_cells(score, ways),
        *([_constant_cell(score)] if has_constant else []),
        Cell(column="tuned", value=score.tuned, notes=_interval(score.tuned_low, score.tuned_high)),
        Cell(
            column="tuned − base",  # noqa: RUF001
            value=gain,
            notes=_interval(score.delta_low, score.delta_high),
        ),
    ]
    return ScoreRow(
        name=score.name,
        cells=cells,
        is_goal=is_goal,
        asked=", ".join(goal_words(goal)) if is_goal else "",
        lower_is_better=score.name in LOWER_IS_BETTER,
        bar=_bar_of(score),
    )


def _constant_cell(score: Score) -> Cell:
    """Return the best answer that stays the same, and how far the tuned model is above it."""
    margin = f"tuned {score.over_constant}, at least {score.over_constant_low}"
    notes = (score.constant_words, margin) if score.constant else ()
    return Cell(column="best constant answer", value=score.constant, notes=notes)


def _base_cells(score: Score, ways: Sequence[BaselineName]) -> list[Cell]:
    trivial = (f"without a model {score.trivial}",) if score.trivial else ()
    if not ways:
        notes = (*_interval(score.base_low, score.base_high), *trivial)
        return [Cell(column="base", value=_shown(score.base), notes=notes, is_compared=True)]
    found = {
        each.asked: (_shown(each.value), _interval(each.low, each.high))
        for each in score.baselines or ()
    }
    if not found:
        bounds = _interval(score.base_low, score.base_high)
        found = {score.baseline or "AsIs": (_shown(score.base), bounds)}
    cells = []
    for way in ways:
        value, notes = found.get(way, ("", ()))
        is_compared = way == (score.baseline or "AsIs")
        said = (*notes, *(("compared",) if is_compared else ()), *(trivial if is_compared else ()))
        cells.append(
            Cell(
                column=f"base {BASELINE_WORDS[way]}",
                value=value,
                notes=said,
                is_compared=is_compared,
            )
        )
    return cells


def _interval(low: str, high: str) -> tuple[str, ...]:
    return (f"{_shown(low, math.floor)} to {_shown(high, math.ceil)}",) if low else ()


def _shown(figure: str, rounded: Callable[[float], int] = round) -> str:
    """Return a figure as it stands, but for large ones, of which nobody reads the fourth digit."""
    value = float(figure)
    return f"{rounded(value):,}" if 1000 <= abs(value) < math.inf else figure


def _bar_of(score: Score) -> Bar | None:
    if score.name in LOWER_IS_BETTER or not score.tuned_low:
        return None
    low, high = float(score.tuned_low), float(score.tuned_high)
    return draw_bar(float(score.base), float(score.tuned), low, high)


def draw_bar(base: float, tuned: float, low: float, high: float) -> Bar:
    """Return where two scores between 0 and 1, and the tuned one's interval, stand."""

    def place(score: float) -> float:
        return round(BAR_WIDTH * min(1.0, max(0.0, score)), 1)

    return Bar(
        base=place(base),
        tuned=place(tuned),
        low=place(low),
        high=place(high),
        words=f"base {base:.3f}, tuned {tuned:.3f}",
    )
