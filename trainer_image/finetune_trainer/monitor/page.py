"""The page of an endpoint's looks: each signal then and now, and over time. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from finetune_trainer.monitor.signals import LONGEST_LOG2, signal_of
from finetune_trainer.pages.rendering import render

WIDTH, HEIGHT = 460, 150
LEFT, RIGHT, TOP, BOTTOM = 44, 456, 10, 128
LENGTHS = ("PromptLength", "AnswerLength")
"""Signals whose numbers are logarithms of characters."""

Part = Mapping[str, Any]
Point = tuple[datetime, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class OverTime:
    """Means of the looks as a line, and what is too near to be found as a band; in pixels.

    Attributes:
        points: Of the line.
        band_y: Top of the band.
        begin: Time at the left end.
        end: Time at the right end.
        labels: Numbers of the axis, and where they stand.
        changes: Where a change of this part began or ended.
    """

    points: str
    band_y: float
    band_height: float
    begin: str
    end: str
    labels: Sequence[tuple[float, str]]
    changes: Sequence[float]


@dataclass(frozen=True, kw_only=True, slots=True)
class ThenAndNow:
    """Two distributions as bars, each as shares of its own sum; in pixels.

    Attributes:
        then: Left end, top, width and height of each bar.
        now: As ``then``.
        begin: Number at the left end.
        end: Number at the right end.
    """

    then: Sequence[tuple[float, float, float, float]]
    now: Sequence[tuple[float, float, float, float]]
    begin: str
    end: str


def render_page(title: str, report: Mapping[str, Any], history: Sequence[Mapping[str, Any]]) -> str:
    """Render the page.

    Args:
        title: Namespace and name of the endpoint.
        report: Of the last look.
        history: Of all looks with this reference, oldest first.
    """
    drifted = report["drifted"]
    parts = sorted(
        report["parts"],
        key=lambda part: (signal_of(part["name"]) not in drifted, -part["logE"]),
    )
    return render(
        "page.html.j2",
        folder=Path(__file__).parent,
        title=title,
        report=report,
        unit=_unit,
        width=WIDTH,
        height=HEIGHT,
        box=(LEFT, RIGHT, TOP, BOTTOM),
        columns=[
            {"label": "signal", "name": True},
            *({"label": label, "number": True} for label in (
                "then", "now", "users", "evidence", "found below", "found above")),
        ],
        rows=[_row(part) for part in parts],
        figures=[
            (part["name"], _over_time(part, history, report["changes"]), _then_and_now(part))
            for part in parts
        ],
    )  # fmt: skip


def number_text(part: str, number: float | None) -> str:
    """Return a number of a signal as people read it: lengths in characters."""
    if number is None:
        return "-"
    if signal_of(part) in LENGTHS:
        return f"{2 ** (LONGEST_LOG2 * number) - 1:,.0f}"
    return f"{number:.3f}"


def _unit(part: str) -> str:
    return "characters" if signal_of(part) in LENGTHS else ""


def _row(part: Part) -> list[str]:
    name = part["name"]
    then, now, low, high = (
        number_text(name, part[key]) for key in ("referenceMean", "mean", "low", "high")
    )
    return [name, then, now, str(part["numUsers"]), f"{part['logE']:+.1f}", low, high]


def _over_time(
    part: Part, history: Sequence[Mapping[str, Any]], changes: Sequence[Mapping[str, Any]]
) -> OverTime | None:
    name = part["name"]
    seen: list[Point] = [
        (datetime.fromisoformat(look["end"]), look["means"][name])
        for look in history
        if look["means"].get(name) is not None
    ]
    if not seen:
        return None
    numbers: list[float] = [part["low"], part["high"], *(number for _, number in seen)]
    low, high = min(numbers), max(numbers)
    room = (high - low) * 0.1 or 0.01
    low, high = low - room, high + room
    begin, end = seen[0][0], seen[-1][0]
    length = (end - begin).total_seconds() or 1.0

    def x(time: datetime) -> float:
        return round(LEFT + (RIGHT - LEFT) * (time - begin).total_seconds() / length, 1)

    def y(number: float) -> float:
        return round(BOTTOM - (BOTTOM - TOP) * (number - low) / (high - low), 1)

    times = (
        datetime.fromisoformat(each[key])
        for each in changes
        for key in ("since", "until")
        if each["part"] == name and each[key] is not None
    )
    return OverTime(
        points=" ".join(f"{x(time)},{y(number)}" for time, number in seen),
        band_y=y(part["high"]),
        band_height=round(y(part["low"]) - y(part["high"]), 1),
        begin=f"{begin:%Y-%m-%d %H:%M}",
        end=f"{end:%Y-%m-%d %H:%M}",
        labels=[(y(each), number_text(name, each)) for each in (part["low"], part["high"])],
        changes=[x(time) for time in times if begin <= time <= end],
    )


def _then_and_now(part: Part) -> ThenAndNow | None:
    then, now = part["referenceBins"], part["bins"]
    if not then or not now:
        return None
    used = [place for place, pair in enumerate(zip(then, now, strict=True)) if any(pair)]
    first, last = used[0], used[-1] + 1
    shares = [[count / sum(bins) for count in bins[first:last]] for bins in (then, now)]
    highest = max(map(max, shares))
    step = (RIGHT - LEFT) / (last - first)

    def bars(heights: Sequence[float], shift: float) -> list[tuple[float, float, float, float]]:
        found = []
        for place, share in enumerate(heights):
            height = round((BOTTOM - TOP) * share / highest, 1)
            found.append(
                (
                    round(LEFT + step * (place + shift), 1),
                    round(BOTTOM - height, 1),
                    round(step * 0.42, 1),
                    height,
                )
            )
        return found

    return ThenAndNow(
        then=bars(shares[0], 0.06),
        now=bars(shares[1], 0.52),
        begin=number_text(part["name"], first / len(then)),
        end=number_text(part["name"], last / len(then)),
    )
