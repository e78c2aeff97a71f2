"""Reasoning that never ends is refused, and reasoning in some rows only is told."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_trainer.data.rows import Example, RowError, make_example
from finetune_trainer.prepare.checks.reasoning import Reasoning
from finetune_trainer.prepare.checks.screening import Screening


def example(row: dict[str, Any]) -> Example:
    return make_example(row, file="rows.jsonl", line=3, side=None, group_value=None)


def pair(answer: str, **more: Any) -> dict[str, Any]:
    completion = [{"role": "assistant", "content": answer, **more}]
    return {"prompt": [{"role": "user", "content": "Why <think>?"}], "completion": completion}


@pytest.mark.parametrize(
    "row",
    [
        pair("<think>So it is late."),
        pair(" \n<thinking>So </think> it is late."),
        pair("[THINK]So it is late."),
        {"prompt": "Why?", "completion": "<think>So it is late."},
        {**pair("late"), "rejected": [{"role": "assistant", "content": "<think>So"}]},
        {"messages": [*pair("")["prompt"], {"role": "assistant", "content": "<think>So"}]},
    ],
)
def test_reasoning_that_never_ends_makes_the_row_invalid(row: dict[str, Any]) -> None:
    found = Screening([Reasoning()]).screen(example(row))
    assert isinstance(found, RowError)
    assert (found.line, found.reason) == (3, "UnclosedReasoning")
    assert "late" not in found.message


@pytest.mark.parametrize(
    "row",
    [
        pair("<think>So.</think>late"),
        pair("late"),
        pair("Write it between <think> and the answer."),
        pair("</think>late"),
        {"text": "<think>So"},
        {"messages": [*pair("")["prompt"], {"role": "assistant", "content": "<think>", "weight": 0},
                      *pair("late")["prompt"], *pair("late")["completion"]]},
    ],
)  # fmt: skip
def test_other_answers_are_kept_as_they_are(row: dict[str, Any]) -> None:
    given = example(row)
    assert Screening([Reasoning()]).screen(given) is given


THOUGHT = pair("<think>So.</think>late")
FIELD = pair("late", reasoning_content="So.")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([THOUGHT, FIELD], None),
        ([pair("late")] * 3, None),
        ([THOUGHT, pair("<think>So")], None),
        ([THOUGHT, FIELD, *[pair("late")] * 3], "2 rows answer with reasoning and 3 without"),
    ],
)
def test_reasoning_in_some_rows_only_is_told_in_numbers(
    rows: list[dict[str, Any]], message: str | None
) -> None:
    screening = Screening([Reasoning()])
    for row in rows:
        screening.screen(example(row))
    findings = screening.summarise()
    assert len(findings) == (message is not None)
    assert all(finding.message.startswith(message or "-") for finding in findings)
