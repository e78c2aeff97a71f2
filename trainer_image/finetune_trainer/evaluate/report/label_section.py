"""The part of the report on labels: what becomes of each, and which are mistaken for which."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from finetune_trainer.evaluate.metrics.answers import References
from finetune_trainer.evaluate.metrics.labels import (
    LabelFigures,
    LabelTable,
    count_labels,
    looks_like_labels,
)
from finetune_trainer.evaluate.report.matrix import Matrix, draw_matrix
from finetune_trainer.evaluate.report.scores import Bar, draw_bar

MAX_MATRIX_LABELS = 8
"""More columns of figures are cut on a phone: then the matrix is a picture."""
MAX_OPEN_LABELS = 12
"""A longer table of labels is folded but for its worst."""
NUM_MISTAKES = 20

LABEL_COLUMNS = (
    "rows",
    "base: recall",
    "base: F1",
    "tuned: precision",
    "tuned: recall",
    "tuned: F1",
)
MISTAKE_COLUMNS = (
    {"label": "true label"},
    {"label": "answered"},
    {"label": "base", "number": True},
    {"label": "tuned", "number": True},
)
NO_LABEL = "(no label of the data)"


@dataclass(frozen=True, kw_only=True, slots=True)
class MatrixRow:
    """One row of the tuned model's confusion matrix.

    Attributes:
        number: Number of the label, by which the columns are headed.
        label: The true label.
        counts: Rows by what was answered; the last is everything that is no label.
    """

    number: int
    label: str
    counts: list[int]


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelRow:
    """One label in the table: its figures, and where both models' F1 stand."""

    label: str
    figures: list[str]
    f1: float
    bar: Bar


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelSection:
    """What the page shows of labels.

    Attributes:
        rows: The table of labels, the tuned model's worst F1 first.
        matrix: The confusion matrix in figures; empty where there are too many labels.
        picture: The same drawn, where there are more.
        mistakes: Cells of the table of the most frequent mistakes of both models.
        num_labels: How many labels there are.
        num_mistakes: How many kinds of mistakes there are.
        asked: How the base model was asked for the answers that are counted, in words.
    """

    rows: list[LabelRow]
    matrix: list[MatrixRow]
    picture: Matrix | None
    mistakes: list[list[object]]
    num_labels: int
    num_mistakes: int
    asked: str


def count_both(
    base: Sequence[str], tuned: Sequence[str], references: References
) -> tuple[LabelTable, LabelTable] | None:
    """Return what both models said to each label; None if the answers are no labels.

    Args:
        base: Answers of the base model.
        tuned: Answers of the tuned model.
        references: Accepted answers of each question.
    """
    if not looks_like_labels(references):
        return None
    return count_labels(base, references), count_labels(tuned, references)


def table_to_json(table: LabelTable) -> dict[str, Any]:
    """Return a table as ``report.json`` has it: figures of each label, and every mistake."""
    return {
        "labels": [
            {
                "label": figures.label,
                "numRows": figures.num_rows,
                "numSaid": figures.num_said,
                "precision": round(figures.precision, 4),
                "recall": round(figures.recall, 4),
                "f1": round(figures.f1, 4),
            }
            for figures in table.figures()
        ],
        "mistakes": [
            {"label": label, "answered": said, "count": count}
            for label, said, count in table.confusions()
        ],
    }


def describe_labels(base: LabelTable, tuned: LabelTable, *, asked: str = "") -> LabelSection:
    """Return what the page shows.

    Args:
        base: What the base model said.
        tuned: What the tuned model said, to the same rows.
        asked: How the base model was asked, in words; empty where there is one way.
    """
    pairs = zip(base.figures(), tuned.figures(), strict=True)
    rows = [_row(before, after) for before, after in pairs]
    mistakes = _list_mistakes(base, tuned)
    size = len(tuned.labels)
    has_figures = size <= MAX_MATRIX_LABELS
    matrix = [
        MatrixRow(number=index + 1, label=label, counts=tuned.counts[index].tolist())
        for index, label in enumerate(tuned.labels)
        if has_figures
    ]
    return LabelSection(
        rows=sorted(rows, key=lambda row: row.f1),
        matrix=matrix,
        picture=None if has_figures else draw_matrix(tuned, none=NO_LABEL),
        mistakes=mistakes[:NUM_MISTAKES],
        num_labels=size,
        num_mistakes=len(mistakes),
        asked=asked,
    )


def _row(before: LabelFigures, after: LabelFigures) -> LabelRow:
    shares = (before.recall, before.f1, after.precision, after.recall, after.f1)
    return LabelRow(
        label=after.label,
        figures=[f"{after.num_rows:,}", *(f"{share:.3f}" for share in shares)],
        f1=after.f1,
        bar=draw_bar(before.f1, after.f1, after.f1, after.f1),
    )


def _list_mistakes(base: LabelTable, tuned: LabelTable) -> list[list[object]]:
    counts: dict[tuple[str, str | None], list[int]] = {}
    for column, table in enumerate((base, tuned)):
        for label, said, count in table.confusions():
            counts.setdefault((label, said), [0, 0])[column] = count
    ranked = sorted(counts.items(), key=lambda entry: (-entry[1][1], -entry[1][0]))
    return [
        [label, NO_LABEL if said is None else said, before, after]
        for (label, said), (before, after) in ranked
    ]
