"""No learned turn of a training conversation answers a held-out question."""

from __future__ import annotations

import hashlib
import io
import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from finetune_api.protocol.trainer import ResolvedJob, Stage
from finetune_trainer.data.prepared import Prepared, read_prepared
from finetune_trainer.data.rows import is_sealed
from finetune_trainer.prepare.stage import prepare
from finetune_trainer.report.events import EventEmitter
from kit.models.tiny_tokenizer import CHATML, TinyContext

Row = dict[str, Any]
Divide = Callable[..., Prepared]


@pytest.fixture
def divide(tmp_path: Path) -> Divide:
    """Prepare rows by side ("Train", "Test", "loose"), and those of a benchmark."""
    number = 0

    def source(name: str, rows: Sequence[Row]) -> dict[str, Any]:
        path = tmp_path / f"{name}-{number}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return {"uri": f"file://{path}"}

    def run(
        rows: dict[str, Sequence[Row]],
        *,
        benchmark: Sequence[Row] = (),
        spec: Row | None = None,
        **dataset: Any,
    ) -> Prepared:
        nonlocal number
        number += 1
        if benchmark:
            dataset["contamination"] = {"against": [source("benchmark", benchmark)]}
        body = {
            "model": {"uri": "hf://example/tiny"},
            "dataset": {
                "sources": [
                    source(side, some) | ({} if side == "loose" else {"side": side})
                    for side, some in rows.items()
                ],
                **(
                    {"contamination": {"against": [source("bench", benchmark)]}}
                    if benchmark
                    else {}
                ),
                **dataset,
            },
            "output": {"uri": f"file://{tmp_path / 'out'}"},
            "evaluation": {"minPrompts": 1},
            **(spec or {}),
        }
        context = TinyContext(
            job=ResolvedJob.model_validate(
                {"namespace": "a", "name": f"c{number}", "uid": f"u{number}", "spec": body}
            ),
            emit=EventEmitter(Stage.PREPARE, stream=io.StringIO()),
            work_dir=tmp_path / "work" / str(number),
            cache_dir=tmp_path / "cache",
        )
        context.model.chat_template = CHATML
        prepare(context)
        return read_prepared(context.storage.output, context.job, context.work_dir)

    return run


def words(rng: random.Random, number: int) -> str:
    return " ".join("".join(rng.choices("bcdfgklmnprstaeiou", k=7)) for _ in range(number))


def turn(rng: random.Random) -> list[Row]:
    return [
        {"role": "user", "content": f"How do I {words(rng, 9)}?"},
        {"role": "assistant", "content": words(rng, 9)},
    ]


def chats(conversations: Sequence[Sequence[Row]]) -> list[Row]:
    return [{"messages": [*each]} for each in conversations]


def turns_of(row: Row) -> list[Row]:
    return row["messages"] if "messages" in row else [*row["prompt"], *row["completion"]]


def learned(rows: Sequence[Row]) -> set[tuple[str, ...]]:
    """Return the contents up to each learned answer."""
    return {
        tuple(message["content"] for message in turns_of(row)[: n + 1])
        for row in rows
        for n, message in enumerate(turns_of(row))
        if message["role"] == "assistant"
        and message.get("weight", 1)
        and n >= len(row.get("prompt", ()))
    }


def questions(rows: Sequence[Row]) -> set[tuple[str, ...]]:
    return {tuple(message["content"] for message in turns_of(row)) for row in rows}


def flagged(data: Prepared) -> int:
    found = [check.flagged for check in data.report.checks if check.name == "heldOutTurns"]
    return sum(found)


def test_of_a_log_with_a_row_per_request_no_held_out_answer_is_learned(divide: Divide) -> None:
    rng = random.Random(4)
    rows: list[Row] = []
    for _ in range(100):
        messages: list[Row] = []
        for _ in range(rng.choice((1, 2, 3, 4))):
            messages = [*messages, *turn(rng)]
            rows.append({"messages": messages})
    data = divide({"loose": rows}, split={"testPercent": 20})
    assert len(data.test) > 20
    assert not questions(data.test) & learned(data.train)
    assert not questions(data.validation) & learned(data.train)
    assert not flagged(data)  # whole conversations lie on one side


def test_a_greeting_that_begins_all_conversations_does_not_tie_them_and_is_not_learned(
    divide: Divide,
) -> None:
    rng = random.Random(8)
    hello = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi!"}]
    rows = [hello]
    for _ in range(60):
        begun = [*hello, *turn(rng)]
        rows += [begun, [*begun, *turn(rng)]]
    data = divide({"loose": chats(rows)}, split={"testPercent": 20})
    assert not questions(data.test) & learned(data.train)
    sides = [
        {row["messages"][2]["content"] for row in side if len(row["messages"]) > 2}
        for side in (data.train, data.validation, data.test)
    ]
    assert sum(map(len, sides)) == 60  # each conversation lies on one side
    assert 10 <= len(sides[2]) <= 14


@pytest.mark.parametrize("shape", ["messages", "pair", "preference"])
@pytest.mark.parametrize(
    "edit", [str, lambda text: f"  {text.upper()}\u200b\n!"], ids=["", "edited"]
)
def test_a_fixed_test_question_as_first_turn_is_kept_and_not_learned(
    shape: str, edit: Callable[[str], str], divide: Divide
) -> None:
    rng = random.Random(3)
    held_out = [turn(rng) for _ in range(20)]
    longer = [
        [{**each[0], "content": edit(each[0]["content"])}, each[1], *turn(rng), *turn(rng)]
        for each in held_out
    ]
    others = [turn(rng) for _ in range(40)]

    def write(conversations: Sequence[Sequence[Row]]) -> list[Row]:
        if shape == "messages":
            return chats(conversations)
        pairs = [{"prompt": [*each[:1]], "completion": [*each[1:]]} for each in conversations]
        if shape == "pair":
            return pairs
        worse = [{"role": "assistant", "content": "I do not know"}]
        return [
            {"prompt": row["prompt"], "chosen": row["completion"], "rejected": worse}
            for row in pairs
        ]

    data = divide(
        {"Train": write([*others, *longer]), "Test": write(held_out)},
        spec={"method": {"objective": "DPO"}} if shape == "preference" else None,
        split={"validationPercent": 0},
    )
    assert len(data.train) == 60
    answers = {tuple(text for text in path[-1:]) for path in learned(data.train)}
    assert not answers & {(each[1]["content"],) for each in held_out}
    assert len(learned(data.train)) == 40 + 2 * 20
    assert flagged(data) == 20


NEAR = {
    "slip": lambda question, rng: [question.replace("How", "Hwo").replace("do I", "do I please")],
    "after a greeting": lambda question, rng: [
        *("Good morning", "Good morning, what can I do for you?", question),
    ],
    "after another question": lambda question, rng: [
        *(turn(rng)[0]["content"], words(rng, 9), question.upper()),
    ],
    "greeting and thanks": lambda question, rng: [f"Hello team, {question} Thank you, Anna"],
}


@pytest.mark.parametrize("again", NEAR.values(), ids=list(NEAR))
def test_answers_to_near_held_out_questions_are_not_learned_as_earlier_turns(
    again: Callable[[str, random.Random], Sequence[str]], divide: Divide
) -> None:
    rng = random.Random(3)
    held_out = [turn(rng) for _ in range(20)]
    rows = [turn(rng) for _ in range(40)]
    for question, answer in held_out:
        texts = [*again(question["content"], rng), answer["content"]]
        rows.append(
            [
                {"role": ("user", "assistant")[n % 2], "content": text}
                for n, text in enumerate(texts)
            ]
            + turn(rng)
        )
    data = divide({"Train": chats(rows), "Test": chats(held_out)})
    answers = {path[-1] for path in learned([*data.train, *data.validation])}
    assert flagged(data) == 20
    assert not answers & {answer["content"] for _, answer in held_out}
    texts = {row["messages"][-1]["content"] for row in [*data.train, *data.validation]}
    assert texts <= answers  # all last answers are learned


def test_answers_to_questions_of_a_benchmark_are_not_learned_as_earlier_turns(
    divide: Divide,
) -> None:
    rng = random.Random(5)
    exam = [turn(rng) for _ in range(10)]
    rows = [*(turn(rng) for _ in range(40)), *([*each, *turn(rng)] for each in exam)]
    data = divide({"loose": chats(rows)}, benchmark=chats(exam))
    assert flagged(data)
    assert not questions(chats(exam)) & learned([*data.train, *data.validation])


def test_answers_to_sealed_questions_are_not_learned_as_earlier_turns(divide: Divide) -> None:
    rng = random.Random(6)
    first = [turn(rng) for _ in range(60)]
    begun = divide({"loose": chats(first)}, split={"testPercent": 20})
    test = begun.folder / "test.jsonl"
    anchor = {
        "digest": begun.report.digest,
        "testSha256": hashlib.sha256(test.read_bytes()).hexdigest(),
    }
    traffic = chats([[*row["messages"], *turn(rng)] for row in begun.test])
    traffic += chats(
        [
            [
                *turn(rng),
                {**row["messages"][0], "content": f"Hi, {row['messages'][0]['content']} By"},
                row["messages"][1],
                *turn(rng),
            ]
            for row in begun.test
        ]
    )
    for side in ("loose", "Train"):
        later = divide(
            {side: [*chats(first), *traffic]},
            anchor=anchor,
            spec={"evaluation": {"minPrompts": 1, "looks": "Correct"}},
        )
        assert sum(map(is_sealed, later.test)) == len(begun.test)
        answers = {path[-1] for path in learned([*later.train, *later.validation])}
        assert not answers & {row["messages"][1]["content"] for row in begun.test}
