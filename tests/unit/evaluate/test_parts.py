"""How held-out rows are divided, and what is told of each part."""

from __future__ import annotations

from typing import Any

import numpy as np

from finetune_api.protocol.trainer import ResolvedJob
from finetune_trainer.evaluate.comparison import Comparison
from finetune_trainer.evaluate.metrics.answers import Answers
from finetune_trainer.evaluate.questions import Question
from finetune_trainer.evaluate.scores.parts import MAX_SOURCES, divide, score_parts
from kit.cases.spec_cases import minimal_job


def question(prompt: Any, source: str = "a.csv", group: str = "") -> Question:
    row = {"metadata": {"source": source}}
    return Question(prompt=prompt, references=("yes",), rows=(row,), group=group or str(prompt))


def test_rows_that_are_all_alike_are_not_divided() -> None:
    assert divide([question("same length") for _ in range(100)]) == []
    assert divide([]) == []


def test_rows_are_divided_by_source_length_and_turns() -> None:
    chat = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"},
            {"role": "user", "content": "c"}]  # fmt: skip
    some = [question("x" * (i + 1), "b.csv" if i % 3 else "a.csv") for i in range(80)]
    parts = divide([*some, question([{"role": "system", "content": "s"}, *chat])])
    assert [(part.by, part.name, sum(part.inside)) for part in parts] == [
        ("source", "a.csv", 28),
        ("source", "b.csv", 53),
        ("length of the question", "1 to 19 characters", 20),
        ("length of the question", "20 to 39 characters", 20),
        ("length of the question", "40 to 59 characters", 20),
        ("length of the question", "60 to 80 characters", 21),
        ("turns before the answer", "1 turn", 80),
        ("turns before the answer", "3 turns", 1),
    ]


def test_sealed_rows_and_those_that_came_since_are_told_apart() -> None:
    sealed = Question(
        prompt="q",
        references=("yes",),
        rows=({"metadata": {"source": "a.csv", "sealed": True}},),
        group="q",
    )
    parts = divide([sealed, sealed, question("r")])
    assert [(part.by, part.name, part.inside) for part in parts] == [
        ("held out", "new since it was sealed", [False, False, True]),
        ("held out", "sealed (dataset.anchor)", [True, True, False]),
    ]
    assert divide([sealed, sealed]) == []


def test_many_small_sources_are_one_part_together() -> None:
    names = [f"{i}.csv" for i in range(30)] + ["large.csv"] * 5
    parts = divide([question("q", name) for name in names])
    assert len(parts) == MAX_SOURCES
    assert {part.name for part in parts} >= {"large.csv", "24 others"}
    assert sum(sum(part.inside) for part in parts) == len(names)


def said(right: int, **fields: Any) -> Answers:
    zeros = np.zeros(60)
    texts = ["yes" if i % 60 < right else "no" for i in range(60)]
    return Answers(texts=texts, nll_sums=zeros, num_tokens=zeros + 1, **fields)


def test_parts_that_a_judge_was_not_asked_about_are_left_out() -> None:
    job = ResolvedJob.model_validate(
        {"namespace": "n", "name": "j", "uid": "u", "spec": minimal_job()["spec"]}
    )
    questions = [question("q" * 9, f"{i % 2}.csv", f"g{i}") for i in range(60)]
    wins = np.array([1.0 if i % 2 else np.nan for i in range(60)])
    answers = [said(20, judged={"judgeWinRate": scores}) for scores in (1 - wins, wins)]
    comparison = Comparison(questions=questions, base=answers[0], tuned=answers[1])
    scores = score_parts(job, comparison, "judgeWinRate")
    assert [(part.name, part.num_questions) for part in scores] == [("1.csv", 30)]


def test_intervals_of_parts_hold_together_and_are_wider_than_of_all() -> None:
    job = ResolvedJob.model_validate(
        {"namespace": "n", "name": "j", "uid": "u", "spec": minimal_job()["spec"]}
    )
    questions = [question(f"q {i}", f"{i % 2}.csv") for i in range(60)]

    comparison = Comparison(questions=questions, base=said(20), tuned=said(50))
    scores = score_parts(job, comparison, "exactMatch")
    assert [(part.name, part.num_questions) for part in scores[:2]] == [
        ("0.csv", 30),
        ("1.csv", 30),
    ]
    first = scores[0].score
    assert (first.base, first.tuned) == ("0.3333", "0.8333")
    alone = score_parts(
        job, Comparison(questions=questions[:1] * 60, base=said(20), tuned=said(50)), "exactMatch"
    )
    assert alone == []
    assert float(first.tuned_high) - float(first.tuned_low) > 0.27  # Wilson's of 25 of 30 alone


def test_conversations_of_many_lengths_are_few_parts() -> None:
    turn = {"role": "user", "content": "a"}
    parts = divide([question([turn] * (2 * i + 1), group=str(i)) for i in range(30)])
    assert [(part.name, sum(part.inside)) for part in parts] == [
        ("1 turn", 1),
        ("3 turns", 1),
        ("5 turns", 1),
        ("7 turns", 1),
        ("9 turns", 1),
        ("11 turns or more", 25),
    ]


def test_a_source_may_begin_with_a_number_in_a_circle() -> None:
    parts = divide([question("q", name) for name in ("① 训练.csv", "2 more.csv", "٣ ملف.csv")])
    assert [part.name for part in parts] == ["2 more.csv", "٣ ملف.csv", "① 训练.csv"]
