"""The training curve as a picture: where lines and marks go, and what they say in words."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from finetune_trainer.pages.axes import labelled_ticks, step_ticks

WIDTH, HEIGHT = 640, 252
LEFT, RIGHT, TOP, BOTTOM = 52, 16, 28, 30

Points = Sequence[Sequence[float]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Tick:
    """A labelled place on an axis, in pixels."""

    at: float
    label: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """A drawn curve; lengths in pixels from the top left corner.

    Attributes:
        train: Points of the line of training losses, as SVG writes them.
        validation: The same of the validation losses.
        dots: Places of the validation losses.
        chosen: Place of the chosen step's validation loss, or None if it was not measured.
        chosen_x: Where the chosen step is.
        steps: Ticks of the horizontal axis.
        losses: Ticks of the vertical axis.
        table: Step and validation loss, for the table.
        words: What there is to see.
    """

    train: str
    validation: str
    dots: list[tuple[float, float]]
    chosen: tuple[float, float] | None
    chosen_x: float
    steps: list[Tick]
    losses: list[Tick]
    table: list[tuple[str, str]]
    words: str
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = WIDTH - RIGHT
    top: int = TOP
    bottom: int = HEIGHT - BOTTOM


def draw_picture(record: Mapping[str, Any]) -> Picture | None:
    """Draw the curve of a run, or nothing if its record holds none.

    Args:
        record: Content of the run's ``run.json``.
    """
    curve, selection = record.get("curve"), record.get("selection")
    if not curve or not selection:
        return None
    train, validation = _finite(curve["train"]), _finite(curve["validation"])
    values = [loss for _, loss in (*train, *validation)]
    if not values:
        return None
    low, high = min(values), max(values)
    room = (high - low or abs(high) or 1.0) * 0.06
    low, high = low - room, high + room
    last = max(selection["last_step"], 1)

    def place(step: float, loss: float) -> tuple[float, float]:
        x = LEFT + (WIDTH - LEFT - RIGHT) * step / last
        y = TOP + (HEIGHT - TOP - BOTTOM) * (high - loss) / (high - low)
        return round(x, 1), round(y, 1)

    chosen_step = selection["step"]
    at_chosen = [loss for step, loss in validation if step == chosen_step]
    return Picture(
        train=_line(place(*point) for point in train),
        validation=_line(place(*point) for point in validation),
        dots=[place(*point) for point in validation],
        chosen=place(chosen_step, at_chosen[0]) if at_chosen else None,
        chosen_x=place(chosen_step, low)[0],
        steps=[Tick(at=place(s, low)[0], label=f"{s:,}") for s in step_ticks(last)],
        losses=[Tick(at=place(0, v)[1], label=text) for v, text in labelled_ticks(low, high)],
        table=[(f"{int(step):,}", f"{loss:.4f}") for step, loss in validation],
        words=_words(train, validation, selection) + _error_words(record),
    )


def _finite(points: Points) -> list[tuple[float, float]]:
    return [(step, loss) for step, loss in points if math.isfinite(loss)]


def _line(places: Any) -> str:
    return " ".join(f"{x},{y}" for x, y in places)


def _words(
    train: list[tuple[float, float]],
    validation: list[tuple[float, float]],
    selection: Mapping[str, Any],
) -> str:
    words = f"Loss over {selection['last_step']:,} steps."
    if train:
        words += f" Training: from {train[0][1]:.3f} to {train[-1][1]:.3f}."
    if validation:
        words += f" Validation: from {validation[0][1]:.3f} to {validation[-1][1]:.3f}."
    words += f" The weights after step {selection['step']:,} were kept"
    if selection["validation_loss"] is not None:
        words += f", validation loss {selection['validation_loss']:.4f}"
    words += "."
    saved = selection["planned_steps"] - selection["last_step"]
    if saved > 0:
        words += f" Training ended early and saved {saved:,} steps."
    return words


def _error_words(record: Mapping[str, Any]) -> str:
    """Say how exact the validation loss is; empty if the record does not say it."""
    error, recipe = record["selection"].get("validation_error"), record.get("recipe") or {}
    measured, rows = (recipe.get(name, 0) for name in ("num_measured_rows", "num_validation_rows"))
    words = f" Its standard error is {error:.4f}." if error is not None else ""
    if measured < rows:
        words += f" It was measured on {measured:,} of {rows:,} validation rows."
    return words
