"""What is stored of every answer: with the group and the lengths that a comparison needs."""

from __future__ import annotations

from typing import Any

import numpy as np

from finetune_trainer.evaluate.comparison import Comparison
from finetune_trainer.evaluate.metrics.answers import Answers
from finetune_trainer.evaluate.questions import gather_questions
from finetune_trainer.evaluate.report.evidence import gather_samples

ROWS: list[dict[str, Any]] = [
    {"prompt": "a?", "completion": "yes", "metadata": {"group": "customer 1"}},
    {"text": "plain text has no answer, and counts for the loss alone"},
    {"prompt": "b?", "completion": "no", "metadata": {"group": "customer 1"}},
    {"prompt": "c?", "completion": "no"},
]


def said(word: str, num_bytes: list[float] | None) -> Answers:
    return Answers(
        texts=[word] * 3,
        nll_sums=np.array([2.0, 9.0, 3.0, 4.0]),
        num_tokens=np.array([1.0, 90.0, 2.0, 3.0]),
        num_bytes=None if num_bytes is None else np.array(num_bytes),
    )


def test_an_answer_is_stored_with_its_own_lengths_and_its_group() -> None:
    questions = gather_questions(ROWS, max_questions=9, seed=1)
    comparison = Comparison(
        questions=questions,
        base=said("base", [3.0, 300.0, 2.0, 5.0]),
        tuned=said("tuned", None),
    )
    samples = gather_samples(comparison, [{"loss": (1.0, float(i))} for i in range(3)])
    assert [sample.prompt for sample in samples] == ["a?", "b?", "c?"]
    assert [sample.num_tokens for sample in samples] == [1, 2, 3]
    assert [sample.num_bytes for sample in samples] == [3, 2, 5]
    assert [sample.scores["loss"][1] for sample in samples] == [0.0, 1.0, 2.0]
    groups = [sample.group for sample in samples]
    assert groups[0] == groups[1] != groups[2]
    assert "customer" not in "".join(groups)


def test_bytes_that_nobody_counted_are_not_made_up() -> None:
    questions = gather_questions(ROWS[:1], max_questions=9, seed=1)
    both = Answers(texts=["x"], nll_sums=np.ones(1), num_tokens=np.ones(1))
    (sample,) = gather_samples(Comparison(questions=questions, base=both, tuned=both), [{}])
    assert sample.num_bytes is None
    assert (sample.prompted, sample.likelihood) == (None, None)


def test_the_tools_of_a_prompt_are_stored_to_ask_it_again() -> None:
    tools = [{"type": "function", "function": {"name": "look_up"}}]
    rows: list[dict[str, Any]] = [{"prompt": "a?", "completion": "yes", "tools": tools}, *ROWS[2:3]]
    questions = gather_questions(rows, max_questions=9, seed=1)
    both = Answers(texts=["x"] * 2, nll_sums=np.ones(2), num_tokens=np.ones(2))
    samples = gather_samples(Comparison(questions=questions, base=both, tuned=both), [{}, {}])
    assert [sample.tools for sample in samples] == [tools, None]
