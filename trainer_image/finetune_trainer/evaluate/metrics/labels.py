"""Answers as labels: exact match, macro F1, and what becomes of each label.

Labels are compared without regard to case, white space around and within, and a final full stop, so
that the base model is not marked down for its manners.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from finetune_trainer.data.answers.label_text import MAX_LABELS, is_short_label
from finetune_trainer.data.answers.label_text import normalize_label as normalize_label
from finetune_trainer.evaluate.metrics.answers import Floats, Measured, References, mean_of
from finetune_trainer.statistics.sums import Matrix, Sums


def looks_like_labels(references: References) -> bool:
    """Tell whether the references are short labels out of a small set."""
    flat = [reference for group in references for reference in group]
    if not flat:
        return False
    distinct = {normalize_label(reference) for reference in flat}
    repeated = len(distinct) <= max(2, len(flat) // 2)
    return all(map(is_short_label, flat)) and repeated and len(distinct) <= MAX_LABELS


def exact_match(texts: Sequence[str], references: References) -> Measured:
    """Return the share of answers that equal one of their references; of labels, accuracy."""
    return mean_of(
        [
            float(normalize_label(text) in {normalize_label(reference) for reference in group})
            for text, group in zip(texts, references, strict=True)
        ]
    )


def macro_f1(texts: Sequence[str], references: References) -> Measured:
    """Return the mean of the F1 of each true label; a row by itself scores 1 if it is right.

    An answer outside the label set is wrong for its true label and right for none. Of several
    references the first is the true label.

    Source: Opitz and Burst 2019, "Macro F1 and Macro F1", the mean of F1; equal to scikit-learn's
        ``f1_score(average="macro", labels=sorted(set(truth)), zero_division=0)``.
    """
    labels, true, said = _index_labels(texts, references)
    sums = _sum_labels(true, said, len(labels))
    return Measured(rows=(true == said).astype(np.float64), over=sums.over, sums=sums)


def _sum_labels(true: NDArray[np.int64], said: NDArray[np.int64], number: int) -> Sums:
    """Return the sums that F1 of each label follows from: hits, and how often it is true or said.

    The row that is added for each label is another label's, or one more hit.
    """
    from scipy.sparse import csr_array, eye_array, hstack

    rows, right, is_label = np.arange(len(true)), true == said, said < number
    wrong = is_label & ~right

    def table(*parts: tuple[NDArray[np.int64], NDArray[np.int64]]) -> Matrix:
        places = np.concatenate([row for row, _ in parts])
        labels = np.concatenate([label for _, label in parts])
        return csr_array((np.ones(len(places)), (places, labels)), shape=(len(true), number))

    def score(sums: Floats) -> Floats:
        hits, counts = sums[:, :number], sums[:, number:]
        f1 = 2 * hits / np.where(counts > 0, counts, 1.0)
        mean: Floats = f1.sum(axis=1) / (counts > 0).sum(axis=1)
        return mean

    one = eye_array(number, format="csr")
    return Sums(
        rows=hstack(
            [
                table((rows[right], true[right])),
                table((rows, true), (rows[is_label], said[is_label])),
            ],
            format="csr",
        ),
        score=score,
        sizes=table((rows, true), (rows[wrong], said[wrong])),
        worst=hstack([0 * one, one], format="csr"),
        best=hstack([one, 2 * one], format="csr"),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelFigures:
    """What one model made of the rows with one true label.

    Attributes:
        label: The label, as the data writes it most often.
        num_rows: Rows with this true label; scikit-learn's support.
        num_said: Answers that are this label.
        precision: Share of these answers that are right; 0 where there is none.
        recall: Share of the rows that are answered right.
        f1: Their harmonic mean.
    """

    label: str
    num_rows: int
    num_said: int
    precision: float
    recall: float
    f1: float


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelTable:
    """What one model said to the rows of each true label.

    Attributes:
        labels: The true labels, the most frequent first, each as the data writes it most often.
        counts: Rows by true label and by what was said; the last column is every answer that is
            none of the labels.
    """

    labels: Sequence[str]
    counts: NDArray[np.int64]

    def figures(self) -> list[LabelFigures]:
        """Return precision, recall and F1 of each label, in the order of the labels."""
        seen, said = self.counts.sum(axis=1), self.counts.sum(axis=0)
        figures = []
        for index, label in enumerate(self.labels):
            hits = int(self.counts[index, index])
            figures.append(
                LabelFigures(
                    label=label,
                    num_rows=int(seen[index]),
                    num_said=int(said[index]),
                    precision=hits / max(1, int(said[index])),
                    recall=hits / max(1, int(seen[index])),
                    f1=2 * hits / max(1, int(seen[index] + said[index])),
                )
            )
        return figures

    def confusions(self) -> list[tuple[str, str | None, int]]:
        """Return true label, said label and count of what was mistaken, the most frequent first.

        The said label is None where the answer was no label at all.
        """
        said: list[str | None] = [*self.labels, None]
        wrong = [
            (self.labels[row], said[column], int(self.counts[row, column]))
            for row, column in np.argwhere(self.counts)
            if row != column
        ]
        return sorted(wrong, key=lambda entry: -entry[2])


def count_labels(texts: Sequence[str], references: References) -> LabelTable:
    """Count what was said to the rows of each label.

    Args:
        texts: The answers.
        references: The true label of each; of several the first.
    """
    labels, true, said = _index_labels(texts, references)
    size = len(labels)
    counts = np.zeros((size, size + 1), dtype=np.int64)
    np.add.at(counts, (true, said), 1)
    order = np.argsort(-counts.sum(axis=1), kind="stable")
    spellings: dict[str, Counter[str]] = {}
    for group in references:
        spellings.setdefault(normalize_label(group[0]), Counter())[group[0].strip()] += 1
    return LabelTable(
        labels=[spellings[labels[index]].most_common(1)[0][0] for index in order],
        counts=counts[order][:, [*order, size]],
    )


def _index_labels(
    texts: Sequence[str], references: References
) -> tuple[list[str], NDArray[np.int64], NDArray[np.int64]]:
    """Return the true labels, sorted, and by row the index of the true and of the said one."""
    truth = [normalize_label(group[0]) for group in references]
    labels = sorted(set(truth))
    index = {label: i for i, label in enumerate(labels)}
    said = [index.get(normalize_label(text), len(labels)) for text in texts]
    return labels, np.array([index[label] for label in truth]), np.array(said)
