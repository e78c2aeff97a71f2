"""The confusion matrix of many labels as a picture: one small square for what was answered. Pure.

Labels stand in the order of the alphabet: they are found, and those of one family, which begin
alike, stand beside each other.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from finetune_trainer.evaluate.metrics.labels import LabelTable

WIDTH_PIXELS = 640
"""Of the picture without its margin, in units of its own: it is scaled to the page."""
MARGIN = 26
MAX_TICKS = 16
FAINTEST = 0.25


@dataclass(frozen=True, kw_only=True, slots=True)
class Square:
    """Rows of one true label that were answered alike; ``words`` says which and how many."""

    x: float
    y: float
    opacity: float
    is_right: bool
    words: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Tick:
    """The number of a label on either axis."""

    at: float
    number: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Matrix:
    """A drawn confusion matrix.

    Attributes:
        squares: What was answered at least once.
        ticks: Numbers along both axes.
        size: Side of a square.
        other: Where the column of answers that are no label begins.
        numbers: Of each label its number, from 1, as the axes have it.
        words: What there is to see.
    """

    squares: list[Square]
    ticks: list[Tick]
    size: float
    other: float
    numbers: dict[str, int]
    words: str
    side: int = WIDTH_PIXELS
    margin: int = MARGIN


def draw_matrix(table: LabelTable, *, none: str) -> Matrix:
    """Draw what a model said to the rows of each label.

    Args:
        table: What it said.
        none: What an answer that is no label is called.
    """
    order = sorted(range(len(table.labels)), key=lambda i: table.labels[i].casefold())
    names = [table.labels[i] for i in order]
    counts = table.counts[np.ix_(order, [*order, len(order)])]
    # The column of other answers stands half a square apart.
    size = WIDTH_PIXELS / (len(order) + 1.5)
    other = MARGIN + WIDTH_PIXELS - size
    squares = []
    for row, column in np.argwhere(counts):
        share = counts[row, column] / counts[row].sum()
        is_other = column == len(order)
        said = none if is_other else names[column]
        squares.append(
            Square(
                x=round(other if is_other else MARGIN + column * size, 1),
                y=round(MARGIN + row * size, 1),
                opacity=round(FAINTEST + (1 - FAINTEST) * float(share), 2),
                is_right=bool(row == column),
                words=f"{names[row]}, answered {said}: {counts[row, column]:,}",
            )
        )
    step = max(1, -(-len(order) // MAX_TICKS))
    right, total = int(np.trace(counts)), int(counts.sum())
    return Matrix(
        squares=squares,
        ticks=[
            Tick(at=round(MARGIN + (i + 0.5) * size, 1), number=i + 1)
            for i in range(0, len(order), step)
        ],
        size=round(size, 2),
        other=round(other, 1),
        numbers={name: i + 1 for i, name in enumerate(names)},
        words=f"{right:,} of {total:,} answers lie on the diagonal, where they are right.",
    )
