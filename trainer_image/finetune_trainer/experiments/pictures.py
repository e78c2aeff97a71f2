"""Curves over each other and parallel coordinates: where lines go, in pixels. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from finetune_trainer.experiments.recipe import Parameter
from finetune_trainer.experiments.run import Run
from finetune_trainer.pages.axes import labelled_ticks, step_ticks

WIDTH, HEIGHT = 640, 280
LEFT, RIGHT, TOP, BOTTOM = 56, 16, 16, 30
NUM_COLOURS = 8
"""Runs that are told apart by colour and dashes; the others are drawn alike."""
AXIS_PITCH = 96
"""Pixels between two axes of parallel coordinates."""
AXIS_TOP = 34
MAX_AXES = 8
MAX_TICKS = 6
MAX_LABEL = 22
LOGARITHMIC_FROM = 8.0
"""Values that differ by more than this factor are drawn on a logarithmic axis."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Tick:
    """A labelled place on an axis, in pixels."""

    at: float
    label: str
    anchor: str = "middle"


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """One run in a picture.

    ``colour`` is a number, or None if all are used; ``ring`` marks the kept step.
    """

    name: str
    colour: int | None
    points: str
    ring: tuple[float, float] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Curves:
    """Validation losses of several runs: lines, ticks of both axes, description."""

    lines: list[Line]
    steps: list[Tick]
    losses: list[Tick]
    words: str
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = WIDTH - RIGHT
    top: int = TOP
    bottom: int = HEIGHT - BOTTOM


@dataclass(frozen=True, kw_only=True, slots=True)
class Axis:
    """One level axis of parallel coordinates: label, height, labelled ticks."""

    label: str
    y: float
    ticks: list[Tick]


@dataclass(frozen=True, kw_only=True, slots=True)
class Coordinates:
    """Parallel coordinates: a line for each run through its value on every axis."""

    axes: list[Axis]
    lines: list[Line]
    words: str
    height: int
    width: int = WIDTH
    left: int = LEFT
    right: int = WIDTH - RIGHT


def choose_colours(runs: Sequence[Run], *, best: Sequence[int]) -> list[int | None]:
    """Return the number of each run's colour: of many only the ``best`` have their own."""
    if len(runs) <= NUM_COLOURS:
        return list(range(len(runs)))
    colours: list[int | None] = [None] * len(runs)
    for colour, place in enumerate(best[:NUM_COLOURS]):
        colours[place] = colour
    return colours


def draw_curves(runs: Sequence[Run], colours: Sequence[int | None]) -> Curves | None:
    """Draw validation losses; empty where no run has two. The steep beginning is cut off."""
    shown = [
        (run, colour) for run, colour in zip(runs, colours, strict=True) if len(run.validation) > 1
    ]
    if not shown:
        return None
    last = max(run.validation[-1][0] for run, _ in shown)
    values = [loss for run, _ in shown for _, loss in run.validation]
    low, highest = min(values), max(values)
    high = min(highest, _top([run for run, _ in shown], low))
    room = (high - low or abs(high) or 1.0) * 0.06
    floor, ceiling = low - room, high + room

    def place(step: float, loss: float) -> tuple[float, float]:
        x = LEFT + (WIDTH - LEFT - RIGHT) * step / max(1, last)
        y = TOP + (HEIGHT - TOP - BOTTOM) * (ceiling - loss) / (ceiling - floor)
        return round(x, 1), round(y, 1)

    lines = []
    for run, colour in shown:
        kept = [place(step, loss) for step, loss in run.validation if step == run.step]
        lines.append(
            Line(
                name=run.name,
                colour=colour,
                points=_points([place(*point) for point in run.validation]),
                ring=kept[0] if kept and kept[0][1] >= TOP else None,
            )
        )
    cut = f" Losses above {high:.3g}, at the beginning, are cut off." if high < highest else ""
    return Curves(
        lines=lines,
        steps=[
            Tick(at=place(s, low)[0], label=f"{s:,}", anchor="end" if s == last else "middle")
            for s in step_ticks(last)
        ],
        losses=[Tick(at=place(0, v)[1], label=text) for v, text in labelled_ticks(floor, ceiling)],
        words=f"Validation loss of {len(shown)} runs over {last:,} steps.{cut}{_single(runs)}",
    )


def _single(runs: Sequence[Run]) -> str:
    number = sum(len(run.validation) == 1 for run in runs)
    if not number:
        return ""
    return f" {number} more {'has' if number == 1 else 'have'} a single loss each, in the table."


def _top(runs: Sequence[Run], low: float) -> float:
    """Return where the picture ends: well above the second half of every curve."""
    halves = [run.validation[len(run.validation) // 2 :] for run in runs]
    late = max(loss for half in halves for _, loss in half)
    return late + 0.5 * (late - low)


def draw_coordinates(
    runs: Sequence[Run],
    parameters: Sequence[Parameter],
    losses: Sequence[float | None],
    colours: Sequence[int | None],
) -> Coordinates | None:
    """Draw parallel coordinates; empty with fewer than two settings or runs.

    Without ``losses`` on the same rows the last axis is left out.
    """
    if len(runs) < 2 or len(parameters) < 2:
        return None
    shown = sorted(parameters, key=lambda each: each.numbers is None)[:MAX_AXES]
    scales = [(each.label, *_scale_parameter(each)) for each in shown]
    if any(loss is not None for loss in losses):
        scales.append(("validation loss", *_scale(losses, is_logarithmic=False)))
    heights = [AXIS_TOP + AXIS_PITCH * number for number in range(len(scales))]
    lines = []
    for number, (run, colour) in enumerate(zip(runs, colours, strict=True)):
        points = [
            (at[number], float(height))
            for (_, _, at), height in zip(scales, heights, strict=True)
            if not math.isnan(at[number])
        ]
        lines.append(Line(name=run.name, colour=colour, points=_points(points)))
    more = f" {len(parameters) - len(shown)} more are in the table." * (
        len(shown) < len(parameters)
    )
    return Coordinates(
        axes=[
            Axis(label=label, y=float(height), ticks=ticks)
            for (label, ticks, _), height in zip(scales, heights, strict=True)
        ],
        lines=lines,
        words=f"{len(runs)} runs over {len(shown)} settings that differ.{more}",
        height=heights[-1] + 34,
    )


def _scale_parameter(parameter: Parameter) -> tuple[list[Tick], list[float]]:
    numbers = parameter.numbers
    distinct = sorted(set(numbers)) if numbers else []
    if numbers and len(distinct) > MAX_TICKS:
        ratio = distinct[-1] / distinct[0] if distinct[0] > 0 else 0.0
        return _scale(numbers, is_logarithmic=ratio >= LOGARITHMIC_FROM)
    # Few values, or words: one after the other at even distances.
    names = dict(zip(numbers or parameter.values, parameter.values, strict=True))
    order: list[float | str] = list(distinct) if numbers else sorted(set(parameter.values))
    span = max(1, len(order) - 1)
    at = {value: round(LEFT + _inner() * place / span, 1) for place, value in enumerate(order)}
    labelled = order if len(order) <= MAX_TICKS else [order[0], order[-1]]
    ticks = [
        Tick(at=at[value], label=_short(names[value]), anchor=_anchor(value, order))
        for value in labelled
    ]
    return ticks, [at[value] for value in numbers or parameter.values]


def _scale(
    values: Sequence[float | None], *, is_logarithmic: bool
) -> tuple[list[Tick], list[float]]:
    known = [value for value in values if value is not None]
    low, high = min(known), max(known)

    def place(value: float | None) -> float:
        if value is None:
            return math.nan
        if high == low:
            return LEFT + _inner() / 2
        share = (value - low) / (high - low)
        if is_logarithmic:
            share = math.log(value / low) / math.log(high / low)
        return round(LEFT + _inner() * share, 1)

    if high == low:
        return [Tick(at=place(low), label=f"{low:.4g}")], [place(value) for value in values]
    ends = [
        Tick(at=place(low), label=f"{low:.4g}", anchor="start"),
        Tick(at=place(high), label=f"{high:.4g}", anchor="end"),
    ]
    return ends, [place(value) for value in values]


def _inner() -> float:
    return float(WIDTH - LEFT - RIGHT)


def _anchor(value: float | str, order: Sequence[float | str]) -> str:
    if len(order) > 1 and value == order[0]:
        return "start"
    return "end" if len(order) > 1 and value == order[-1] else "middle"


def _short(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= MAX_LABEL else f"...{flat[3 - MAX_LABEL :]}"


def _points(places: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x},{y}" for x, y in places)
