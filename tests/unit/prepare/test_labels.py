"""What is a label and what is a text."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_trainer.data.report import LabelReport
from finetune_trainer.data.rows import Side
from finetune_trainer.prepare.labels import MAX_LABELS, count_labels, tell_labels


def chat(answer: str | None, **more: Any) -> dict[str, Any]:
    asked = {"role": "user", "content": "Which?"}
    return {"prompt": [asked], "completion": [{"role": "assistant", "content": answer, **more}]}


def test_labels_are_counted_by_side_the_most_frequent_first() -> None:
    sides = {
        Side.TRAIN: [chat("late"), chat(" lost"), chat("late"), chat("late")],
        Side.VALIDATION: [],
        Side.TEST: [{"messages": [*chat("lost")["prompt"], *chat("lost")["completion"]]}],
    }
    counted = [(each.label, each.train, each.validation, each.test) for each in count_labels(sides)]
    assert counted == [("late", 3, 0, 0), ("lost", 1, 0, 1)]


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [chat("a"), chat("b"), chat("c")],  # as many as rows
        [chat("late"), chat("late"), chat("x" * 65)],
        [chat("late"), chat("late"), chat("two\nlines")],
        [chat("late"), chat("late"), {"text": "late"}],
        [chat("late"), chat("late"), {**chat("late"), "rejected": chat("lost")["completion"]}],
        [chat("late"), chat("late"), chat(None, tool_calls=[{"function": {"name": "f"}}])],
        [{"prompt": "q", "completion": str(i % (MAX_LABELS + 1))} for i in range(1000)],
    ],
)
def test_answers_that_are_no_labels_are_not_counted(rows: list[dict[str, Any]]) -> None:
    assert count_labels({Side.TRAIN: rows}) == []


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([("a", 40, 10), ("b", 40, 10)], {}),
        ([("a", 80, 20)], {"oneLabel": 100}),
        ([("fine", 760, 190), ("fraud", 40, 10)], {"labelImbalance": 950}),
        ([("a", 40, 10), ("b", 40, 10), ("c", 9, 1)], {"rareLabels": 1}),
        ([("a", 40, 10), ("b", 40, 10), ("c", 20, 0)], {"labelsWithoutTest": 1}),
        ([], {}),
    ],
)
def test_uneven_labels_are_told_and_never_named(
    labels: list[tuple[str, int, int]], expected: dict[str, int]
) -> None:
    reports = [LabelReport(label=name, train=train, test=test) for name, train, test in labels]
    findings = tell_labels(reports)
    assert {finding.name: finding.num_flagged for finding in findings} == expected
    assert not any("fraud" in finding.message for finding in findings)
