"""A histogram: how values are put into bins, and where its bars go in a picture. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

MAX_BINS = 20
WIDTH, HEIGHT = 360, 150
LEFT, RIGHT, TOP, BOTTOM = 4, 4, 18, 20
GAP = 1.0
"""Between two bars, in pixels."""

_STEPS = (1, 2, 5)


@dataclass(frozen=True, kw_only=True, slots=True)
class Bin:
    """Values from ``at_least`` up to the next bin; the last one takes all that are larger."""

    at_least: int
    count: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Bar:
    """One bar, in pixels from the top left corner."""

    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Mark:
    """A labelled place on the axis, in pixels."""

    at: float
    label: str
    anchor: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Histogram:
    """A drawn histogram; lengths in pixels.

    Attributes:
        bars: One for each bin.
        ticks: Labels of the axis.
        limit_x: Place of a limit, or None beyond the picture.
        highest: Count of the highest bar.
        rows: Range and count of each bin, for a table.
        words: Description.
    """

    bars: list[Bar]
    ticks: list[Mark]
    limit_x: float | None
    highest: int
    rows: list[tuple[str, int]]
    words: str
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = WIDTH - RIGHT
    top: int = TOP
    bottom: int = HEIGHT - BOTTOM


def count_bins(ordered: Sequence[int]) -> tuple[Bin, ...]:
    """Put ascending, non-negative values into at most :data:`MAX_BINS` bins of equal width.

    The bins reach to the 99th percentile; the last one is open.
    """
    if not ordered:
        return ()
    high = ordered[max(0, -(-len(ordered) * 99 // 100) - 1)]
    width = _round_width(high)
    counts = [0] * (high // width + 1)
    for value in ordered:
        counts[min(value // width, len(counts) - 1)] += 1
    first = next(i for i, count in enumerate(counts) if count)
    return tuple(Bin(at_least=i * width, count=counts[i]) for i in range(first, len(counts)))


def _round_width(high: int) -> int:
    power = 1
    while True:
        for step in _STEPS:
            if high // (step * power) < MAX_BINS:
                return step * power
        power *= 10


def draw_histogram(
    bins: Sequence[Bin], *, longest: int, unit: str, limit: int | None = None
) -> Histogram | None:
    """Draw bins of :func:`count_bins`; empty without bins.

    ``unit`` is plural; ``limit`` is a value to mark.
    """
    if not bins:
        return None
    step = (WIDTH - LEFT - RIGHT) / len(bins)
    highest = max(each.count for each in bins)
    room = HEIGHT - TOP - BOTTOM
    bars = []
    for i, each in enumerate(bins):
        height = round(room * each.count / highest, 1) if each.count else 0.0
        if each.count:
            height = max(height, 1.0)
        bars.append(
            Bar(
                x=round(LEFT + i * step, 1),
                y=round(HEIGHT - BOTTOM - height, 1),
                width=round(max(step - GAP, 1.0), 1),
                height=height,
            )
        )
    return Histogram(
        bars=bars,
        ticks=_ticks(bins, step, longest),
        limit_x=_place(bins, step, limit),
        highest=highest,
        rows=[(_range(bins, i, longest), each.count) for i, each in enumerate(bins)],
        words=_words(bins, longest, unit),
    )


def _ticks(bins: Sequence[Bin], step: float, longest: int) -> list[Mark]:
    """Label where the first bin and the middle one begin, and where the last one ends."""
    ticks = [
        Mark(at=round(LEFT + i * step, 1), label=f"{bins[i].at_least:,}", anchor="start")
        for i in sorted({0, len(bins) // 2})
    ]
    if len(bins) > 1:
        end = 2 * bins[-1].at_least - bins[-2].at_least
        label = f"{end:,}" if longest < end else f"up to {longest:,}"
        ticks.append(Mark(at=WIDTH - RIGHT, label=label, anchor="end"))
    return ticks


def _place(bins: Sequence[Bin], step: float, limit: int | None) -> float | None:
    if limit is None or len(bins) < 2:
        return None
    width = bins[1].at_least - bins[0].at_least
    at = LEFT + (limit - bins[0].at_least) / width * step
    return round(at, 1) if LEFT <= at <= WIDTH - RIGHT else None


def _range(bins: Sequence[Bin], i: int, longest: int) -> str:
    low = bins[i].at_least
    high = bins[i + 1].at_least - 1 if i + 1 < len(bins) else max(longest, low)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _words(bins: Sequence[Bin], longest: int, unit: str) -> str:
    total = sum(each.count for each in bins)
    most = max(range(len(bins)), key=lambda i: (bins[i].count, -i))
    return (
        f"{total:,} rows, of up to {longest:,} {unit}. Most, {bins[most].count:,}, have "
        f"{_range(bins, most, longest)} {unit}."
    )
