"""The part of the report on labels: what becomes of each, and which are mistaken for which."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from finetune_trainer.evaluate.metrics.answers import References
from finetune_trainer.evaluate.metrics.labels import LabelTable, count_labels, looks_like_labels

MAX_MATRIX_LABELS = 8
"""More columns are cut on a phone; what is mistaken for what is listed below either way."""
NUM_MISTAKES = 20

LABEL_COLUMNS = (
    {"label": "label"},
    {"label": "rows", "number": True},
    {"label": "base: recall", "number": True},
    {"label": "base: F1", "number": True},
    {"label": "tuned: precision", "number": True},
    {"label": "tuned: recall", "number": True},
    {"label": "tuned: F1", "number": True},
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
class LabelSection:
    """What the page shows of labels.

    Attributes:
        rows: Cells of the table of labels, the tuned model's worst F1 first.
        matrix: The confusion matrix; empty where there are too many labels for one.
        mistakes: Cells of the table of the most frequent mistakes of both models.
        num_labels: How many labels there are.
        num_mistakes: How many kinds of mistakes there are.
    """

    rows: list[list[object]]
    matrix: list[MatrixRow]
    mistakes: list[list[object]]
    num_labels: int
    num_mistakes: int


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


def describe_labels(base: LabelTable, tuned: LabelTable) -> LabelSection:
    """Return what the page shows.

    Args:
        base: What the base model said.
        tuned: What the tuned model said, to the same rows.
    """
    pairs = zip(base.figures(), tuned.figures(), strict=True)
    rows: list[list[object]] = [
        [
            after.label,
            after.num_rows,
            f"{before.recall:.3f}",
            f"{before.f1:.3f}",
            f"{after.precision:.3f}",
            f"{after.recall:.3f}",
            f"{after.f1:.3f}",
        ]
        for before, after in pairs
    ]
    mistakes = _list_mistakes(base, tuned)
    size = len(tuned.labels)
    matrix = [
        MatrixRow(number=index + 1, label=label, counts=tuned.counts[index].tolist())
        for index, label in enumerate(tuned.labels)
        if size <= MAX_MATRIX_LABELS
    ]
    return LabelSection(
        rows=sorted(rows, key=lambda row: str(row[-1])),
        matrix=matrix,
        mistakes=mistakes[:NUM_MISTAKES],
        num_labels=size,
        num_mistakes=len(mistakes),
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
