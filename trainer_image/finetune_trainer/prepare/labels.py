"""Finds out whether the answers of a data set are labels, and counts them by side."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from finetune_trainer.data.report import LabelReport
from finetune_trainer.data.rows import Side

MAX_LABELS = 100
MAX_LABEL_CHARACTERS = 64


def count_labels(sides: Mapping[Side, Iterable[Mapping[str, Any]]]) -> list[LabelReport]:
    """Count the answers where they are labels: short, few, and twice as many rows as labels.

    Reading ends at the first answer that is none, so this costs nothing where answers are texts.

    Args:
        sides: The rows as the prepared data set holds them.

    Returns:
        The labels, the most frequent first; none where the answers are no labels.
    """
    counts: Counter[str] = Counter()
    by_side: dict[Side, Counter[str]] = {side: Counter() for side in Side}
    for side, rows in sides.items():
        for row in rows:
            label = label_of(row)
            if label is None or (label not in counts and len(counts) == MAX_LABELS):
                return []
            counts[label] += 1
            by_side[side][label] += 1
    if not 0 < len(counts) <= counts.total() // 2:
        return []
    ordered = sorted(counts, key=lambda label: (-counts[label], label))
    return [
        LabelReport(
            label=label,
            train=by_side[Side.TRAIN][label],
            validation=by_side[Side.VALIDATION][label],
            test=by_side[Side.TEST][label],
        )
        for label in ordered
    ]


def label_of(row: Mapping[str, Any]) -> str | None:
    """Return the answer of a row if it may be a label: one line, not too long."""
    answer = answer_of(row)
    if answer is None:
        return None
    answer = answer.strip()
    is_short = 0 < len(answer) <= MAX_LABEL_CHARACTERS and "\n" not in answer
    return answer if is_short else None


def answer_of(row: Mapping[str, Any]) -> str | None:
    """Return the text of a row's last answer; None for plain text, preferences and tool calls."""
    if "text" in row or "rejected" in row or "label" in row:
        return None
    answers = row["messages"] if "messages" in row else row["completion"]
    if isinstance(answers, str):
        return answers
    last = answers[-1]
    content = last.get("content")
    return content if isinstance(content, str) and not last.get("tool_calls") else None
