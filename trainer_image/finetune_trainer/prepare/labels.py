"""Finds out whether the answers of a data set are labels, and counts them by side."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from finetune_trainer.data.report import LabelReport
from finetune_trainer.data.rows import Side
from finetune_trainer.prepare.checks import Finding

MAX_LABELS = 100
MAX_LABEL_CHARACTERS = 64

DOMINANT_PERCENT = 80
"""From this share of the rows on, always saying the most frequent label looks like success."""
RARE_ROWS = 10
"""A label with fewer training rows is hardly learned."""


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


def tell_labels(labels: Sequence[LabelReport]) -> list[Finding]:
    """Say what is uneven about labels, without naming one: they are text of rows.

    Args:
        labels: As :func:`count_labels` returns them.
    """
    if not labels:
        return []
    num_rows = sum(label.total for label in labels)
    most = labels[0].total
    if len(labels) == 1:
        message = (
            f"all {num_rows} rows have the same answer: a model that always says it is right, and "
            "nothing is learned about when to say it"
        )
        return [Finding(name="oneLabel", num_flagged=num_rows, message=message)]
    findings = []
    if 100 * most >= DOMINANT_PERCENT * num_rows:
        message = (
            f"{most} of {num_rows} rows have the same of {len(labels)} labels: a model that always "
            f"says it is right in {100 * most // num_rows} % of them. Set the goal on macroF1, or "
            "leave out some of these rows"
        )
        findings.append(Finding(name="labelImbalance", num_flagged=most, message=message))
    rare = [label for label in labels if label.train < RARE_ROWS]
    if rare:
        message = (
            f"{len(rare)} of {len(labels)} labels have fewer than {RARE_ROWS} training rows, too "
            "few to learn them well; add examples"
        )
        findings.append(Finding(name="rareLabels", num_flagged=len(rare), message=message))
    unseen = [label for label in labels if not label.test]
    if unseen:
        message = (
            f"{len(unseen)} of {len(labels)} labels have no held-out row: the evaluation says "
            "nothing of them"
        )
        findings.append(Finding(name="labelsWithoutTest", num_flagged=len(unseen), message=message))
    return findings


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
