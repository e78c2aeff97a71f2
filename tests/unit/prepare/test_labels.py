"""What is a label and what is a text."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_trainer.data.rows import Side
from finetune_trainer.prepare.labels import MAX_LABELS, count_labels


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
