"""What `finetune init` proposes for a file is read by the stage's reader, or both refuse it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from finetune_api.v1alpha1.finetunejob import FineTuneJob
from finetune_cli.errors import CliError
from finetune_cli.files.documents import find_problems, parse_document, parse_documents
from finetune_cli.files.starter import render_starter
from finetune_trainer.data.rows import Example, RawRow
from finetune_trainer.prepare.reading.examples import open_source
from finetune_trainer.prepare.reading.sources import describe_file

NUM_ROWS = 12


def rows_of(make: Callable[[int], dict[str, Any]]) -> bytes:
    return "".join(json.dumps(make(n)) + "\n" for n in range(NUM_ROWS)).encode()


def table_of(header: str, make: Callable[[int], str]) -> bytes:
    lines = [header, *(make(n) for n in range(NUM_ROWS))]
    return "".join(f"{line}\n" for line in lines if line).encode()


def turn(role: str, content: Any, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


def call(n: int) -> dict[str, Any]:
    function = {"name": "find", "arguments": json.dumps({"number": n})}
    return turn(
        "assistant", None, tool_calls=[{"id": "a", "type": "function", "function": function}]
    )


TOOLS = [{"type": "function", "function": {"name": "find", "parameters": {"type": "object"}}}]
CHATS: dict[str, Callable[[int], list[dict[str, Any]]]] = {
    "plain": lambda n: [turn("user", f"ask {n}"), turn("assistant", "say")],
    "system": lambda n: [turn("system", "Be brief."), turn("user", f"{n}"), turn("assistant", "a")],
    "developer": lambda n: [turn("developer", "Be"), turn("user", f"{n}"), turn("assistant", "a")],
    "tool calls": lambda n: [
        turn("user", f"ask {n}"),
        call(n),
        turn("tool", "42", tool_call_id="a"),
        turn("assistant", "say"),
    ],
    "weights": lambda n: [
        turn("user", f"ask {n}"),
        turn("assistant", "no", weight=0),
        turn("user", "again"),
        turn("assistant", "yes", weight=1),
    ],
    "parts": lambda n: [
        turn("user", [{"type": "text", "text": f"ask {n}"}]),
        turn("assistant", [{"type": "text", "text": "say"}]),
    ],
}
LINES = "subject: {{ subject }}\nbody: {{ body }}"
SHAPES: dict[str, tuple[str, bytes, dict[str, Any]]] = {
    **{
        f"chat: {name}": (
            "a.jsonl",
            rows_of(lambda n, make=make: {"messages": make(n), "tools": TOOLS}),  # type: ignore[misc]
            {"format": "Chat"},
        )
        for name, make in CHATS.items()
    },
    "several formats": (
        "a.jsonl",
        rows_of(
            lambda n: (
                {"prompt": f"ask {n}", "completion": "say"},
                {
                    "messages": [
                        {"role": "user", "content": f"go {n}"},
                        {"role": "assistant", "content": "gone"},
                    ]
                },
            )[n % 3 == 2]
        ),
        {"format": "Auto"},
    ),
    "pairs": (
        "a.jsonl",
        rows_of(lambda n: {"prompt": f"ask {n}", "completion": "say"}),
        {"format": "PromptCompletion"},
    ),
    "pairs of messages": (
        "a.jsonl",
        rows_of(
            lambda n: {"prompt": [turn("user", f"{n}")], "completion": [turn("assistant", "a")]}
        ),
        {"format": "PromptCompletion"},
    ),
    "answers are numbers": (
        "a.jsonl",
        rows_of(lambda n: {"prompt": f"ask {n}", "completion": n % 3}),
        {"format": "PromptCompletion"},
    ),
    "answers are JSON": (
        "a.jsonl",
        rows_of(lambda n: {"prompt": f"ask {n}", "completion": {"n": n, "tags": []}}),
        {"format": "PromptCompletion"},
    ),
    "answers are lists": (
        "a.jsonl",
        rows_of(lambda n: {"text": f"ask {n}", "target": [{"kind": "city", "at": n}]}),
        {"format": "Csv", "columns": {"prompt": "text", "completion": "target"}},
    ),
    "alpaca": (
        "a.jsonl",
        rows_of(lambda n: {"instruction": "a", "input": {"n": n}, "output": n}),
        {"format": "Alpaca"},
    ),
    "numbers as labels": (
        "a.csv",
        table_of("review,stars", lambda n: f"It was {n},{n % 5 + 1}"),
        {"format": "Csv", "columns": {"prompt": "review", "completion": "stars"}},
    ),
    "several inputs": (
        "a.csv",
        table_of("subject,body,queue", lambda n: f"Help {n},It broke {n},q{n % 3}"),
        {"format": "Csv", "columns": {"completion": "queue"}, "template": LINES},
    ),
    "several inputs and bookkeeping": (
        "a.jsonl",
        rows_of(
            lambda n: {
                "ticket_id": n,
                "created_at": "2024-05-01",
                "channel": "mail",
                "customer_id": n // 2,
                "subject": f"Help {n}",
                "body": f"It broke {n}",
                "answer": "Restart.",
            }
        ),
        {
            "format": "Csv",
            "columns": {"completion": "answer", "group": "customer_id"},
            "template": LINES,
        },
    ),
    "numbers among the inputs": (
        "a.jsonl",
        rows_of(lambda n: {"age": n, "note": f"text {n}", "label": n % 2 == 0}),
        {
            "format": "Csv",
            "columns": {"completion": "label"},
            "template": "age: {{ age }}\nnote: {{ note }}",
        },
    ),
    "odd names of inputs": (
        "a.jsonl",
        rows_of(lambda n: {"in {{x}}": f"a{n}", "class ": f"b{n}", "for": f"c{n}", "label": "x"}),
        {
            "format": "Csv",
            "columns": {"completion": "label"},
            "template": '{{ "in {{x}}" }}: {{ row["in {{x}}"] }}\nclass : {{ row["class "] }}\n'
            'for: {{ row["for"] }}',
        },
    ),
    "facts as an object": (
        "a.jsonl",
        rows_of(lambda n: {"facts": {"name": f"n{n}"}, "description": f"It is {n}."}),
        {"format": "Csv", "columns": {"prompt": "facts", "completion": "description"}},
    ),
    "text and label": (
        "a.csv",
        table_of("text,label", lambda n: f"text {n},l{n % 2}"),
        {"format": "Csv", "columns": {"prompt": "text", "completion": "label"}},
    ),
    "text and where it is from": (
        "a.jsonl",
        rows_of(
            lambda n: {"text": f"text {n}", "url": f"https://example.org/{n}", "split": "train"}
        ),
        {"format": "Text"},
    ),
    "no header, labels": (
        "a.csv",
        table_of("", lambda n: f"It is broken {n},l{n % 3}"),
        {
            "format": "Csv",
            "header": "Absent",
            "columns": {"prompt": "column1", "completion": "column2"},
        },
    ),
    "no header, sentences": (
        "a.tsv",
        table_of("", lambda n: f"What is the answer to {n}?\tThe answer to it is {n}."),
        {
            "format": "Csv",
            "header": "Absent",
            "columns": {"prompt": "column1", "completion": "column2"},
        },
    ),
    "no header, one column": (
        "a.csv",
        table_of("", lambda n: f"The court held that case {n} was void."),
        {"format": "Text", "header": "Absent", "columns": {"text": "column1"}},
    ),
    "no header, labels before the texts": (
        "a.tsv",
        table_of("", lambda n: f"{'spam' if n % 3 else 'ham'}\tCall me back, number {n}"),
        {
            "format": "Csv",
            "header": "Absent",
            "columns": {"prompt": "column2", "completion": "column1"},
        },
    ),
    "unknown names, labels in the middle": (
        "a.csv",
        table_of("wer,art,was", lambda n: f"Frau {n},{'neu' if n % 2 else 'alt'},Text {n}"),
        {
            "format": "Csv",
            "columns": {"completion": "art"},
            "template": "wer: {{ wer }}\nwas: {{ was }}",
        },
    ),
    "better and worse": (
        "a.jsonl",
        rows_of(lambda n: {"prompt": f"ask {n}", "chosen": "yes", "rejected": "no"}),
        {"format": "Preference"},
    ),
    "verdicts": (
        "a.jsonl",
        rows_of(lambda n: {"prompt": f"ask {n}", "completion": "yes", "label": n % 2 == 0}),
        {"format": "Preference"},
    ),
    "verdicts that are numbers": (
        "a.jsonl",
        rows_of(lambda n: {"prompt": f"ask {n}", "completion": f"say {n}", "label": n % 2}),
        {"format": "Preference"},
    ),
    "verdicts beside conversations": (
        "a.jsonl",
        rows_of(lambda n: {"messages": CHATS["plain"](n), "kto_tag": n % 2 == 0}),
        {"format": "Preference"},
    ),
    "preferences as OpenAI has them": (
        "a.jsonl",
        rows_of(
            lambda n: {
                "input": {"messages": [turn("user", f"ask {n}")], "tools": []},
                "preferred_output": [turn("assistant", "yes")],
                "non_preferred_output": [turn("assistant", "no")],
            }
        ),
        {
            "format": "Preference",
            "columns": {
                "prompt": "input",
                "chosen": "preferred_output",
                "rejected": "non_preferred_output",
            },
        },
    ),
    "preferences in a table": (
        "a.csv",
        table_of("question,worse,better", lambda n: f"ask {n},no,yes"),
        {
            "format": "Preference",
            "columns": {"prompt": "question", "chosen": "better", "rejected": "worse"},
        },
    ),
    "a worse answer beside the answer": (
        "a.csv",
        table_of("question,answer,rejected_answer", lambda n: f"ask {n},yes {n},no {n}"),
        {"format": "Csv", "columns": {"prompt": "question", "completion": "answer"}},
    ),
    "a worse answer last": (
        "a.csv",
        table_of("frage,antwort,non_preferred", lambda n: f"ask {n},yes {n},no {n}"),
        {"format": "Csv", "columns": {"prompt": "frage", "completion": "antwort"}},
    ),
    "columns that are good and bad": (
        "a.csv",
        table_of("headline,good,bad,label", lambda n: f"up {n},{n},{n + 1},x{n % 2}"),
        {
            "format": "Csv",
            "columns": {"completion": "label"},
            "template": "headline: {{ headline }}\ngood: {{ good }}\nbad: {{ bad }}",
        },
    ),
    "one column of another name": (
        "a.csv",
        table_of("abstract", lambda n: f"text {n}"),
        {"format": "Text", "columns": {"text": "abstract"}},
    ),
}

REFUSED: dict[str, tuple[str, bytes, str]] = {
    "a picture": (
        "a.jsonl",
        rows_of(
            lambda n: {"messages": [turn("user", [{"type": "image_url"}]), turn("assistant", "a")]}
        ),
        "only text can be trained",
    ),
    "a weight between": (
        "a.jsonl",
        rows_of(lambda n: {"messages": [turn("user", "a"), turn("assistant", "a", weight=0.5)]}),
        "it must be 1 (learn this answer) or 0 (do not)",
    ),
    "an old call": (
        "a.jsonl",
        rows_of(
            lambda n: {
                "messages": [turn("user", "a"), turn("assistant", "", function_call={"name": "x"})]
            }
        ),
        "as tool_calls of the assistant",
    ),
    "a conversation without an answer": (
        "a.jsonl",
        rows_of(lambda n: {"messages": [turn("user", "a")]}),
        "it must be the answer to learn",
    ),
    "an answer that is empty now and then": (
        "a.csv",
        table_of("question,answer", lambda n: f"ask {n},{'say' * (n != 7)}"),
        "a.csv:9: answer is empty",
    ),
    "only numbers": ("a.jsonl", rows_of(lambda n: {"a": n, "b": n}), "no known format fits"),
    "names and nothing else": ("a.csv", b"question,answer\n", "no rows"),
}


def test_verdicts_are_proposed_for_kto(tmp_path: Path) -> None:
    for shape in SHAPES:
        if shape.startswith("verdicts"):
            job = propose(tmp_path, *SHAPES[shape][:2])
            assert job.spec.method.objective == "KTO", shape


def test_pairs_are_proposed_for_dpo(tmp_path: Path) -> None:
    for shape in SHAPES:
        if shape.startswith("preferences"):
            job = propose(tmp_path, *SHAPES[shape][:2])
            assert job.spec.method.objective == "DPO", shape
            assert job.spec.goal is not None
            assert job.spec.goal.metric == "preferenceAccuracy", shape


def test_an_unwanted_answer_after_the_rows_looked_at_is_not_proposed_as_an_example(
    tmp_path: Path,
) -> None:
    row = {"prompt": "ask", "completion": "say", "label": True}
    lines = [json.dumps({**row, "label": n < 300}) for n in range(301)]
    with pytest.raises(CliError, match=r"a.jsonl:301: label is false") as caught:
        propose(tmp_path, "a.jsonl", "\n".join(lines).encode())
    assert "method.objective: KTO" in caught.value.message


def propose(folder: Path, name: str, content: bytes) -> FineTuneJob:
    (folder / name).write_bytes(content)
    text, _ = render_starter(file=folder / "job.yaml", data=str(folder / name))
    (document,) = parse_documents(text, "job.yaml")
    assert find_problems(document) == []
    return parse_document(document)


def read(folder: Path, name: str, job: FineTuneJob) -> list[object]:
    (source,) = job.spec.dataset.sources
    opened = open_source(
        source,
        [describe_file(folder / name, name=name)],
        index=0,
        label="",
        conversational=True,
        objective=job.spec.method.objective,
    )
    if opened.conversion is None:
        return [row for _, row in opened.rows]
    convert = opened.conversion.build()
    return [convert(file, row) if isinstance(row, RawRow) else row for file, row in opened.rows]


@pytest.mark.parametrize("shape", SHAPES)
def test_what_is_proposed_is_read_to_the_last_row(shape: str, tmp_path: Path) -> None:
    name, content, expected = SHAPES[shape]
    job = propose(tmp_path, name, content)
    source = job.spec.dataset.sources[0].to_wire()
    for key in ("format", "columns", "template"):
        assert source.get(key) == expected.get(key), key
    assert source["header"] == expected.get("header", "Auto")
    rows = read(tmp_path, name, job)
    assert len(rows) == NUM_ROWS
    assert all(isinstance(row, Example) for row in rows), rows


@pytest.mark.parametrize("shape", REFUSED)
def test_what_the_reader_refuses_is_not_proposed(shape: str, tmp_path: Path) -> None:
    name, content, message = REFUSED[shape]
    with pytest.raises(CliError) as caught:
        propose(tmp_path, name, content)
    assert message in caught.value.message
    assert name in caught.value.message


@pytest.mark.parametrize("place", ["in put", "in put/*.csv", "in put/**/part-?.csv"])
def test_a_folder_or_a_pattern_is_proposed_and_all_its_files_are_read(
    place: str, tmp_path: Path
) -> None:
    folder = tmp_path / "in put" / "2026"
    folder.mkdir(parents=True)
    for number in range(2):
        text = table_of("frage,antwort", lambda n, at=number: f"W\u00fcrfel {at} {n},Zahl {n}")
        file = folder / f"part-{number}.csv"
        file.write_bytes(text.decode().encode("cp1252" if number else "utf-8"))
    if place.endswith("/*.csv"):
        place = "in put/2026/*.csv"
    text, guess = render_starter(file=tmp_path / "job.yaml", data=str(tmp_path / place))
    assert guess is not None
    assert (guess.num_rows, guess.is_whole) == (2 * NUM_ROWS, True)
    assert guess.encodings == ("Windows-1252",)
    (document,) = parse_documents(text, "job.yaml")
    source = parse_document(document).spec.dataset.sources[0]
    assert source.uri == f"file://./{place}"
    assert source.columns is not None
    assert (source.columns.prompt, source.columns.completion) == ("frage", "antwort")
    file.write_bytes(file.read_bytes() + b"one field\n")
    with pytest.raises(CliError, match=r"part-1.csv:14: has 1 fields"):
        render_starter(file=tmp_path / "job.yaml", data=str(tmp_path / place))


def test_the_length_is_measured_and_never_too_short(tmp_path: Path) -> None:
    def length_of(words: int) -> int:
        rows = rows_of(lambda n: {"prompt": "word " * (words if n == 7 else 3), "completion": "a"})
        return propose(tmp_path, "a.jsonl", rows).spec.hyperparameters.max_sequence_length

    assert length_of(10) == 256
    assert length_of(300) == 768
    assert length_of(10_000) == 20 * 1024


def test_a_row_far_longer_than_all_others_does_not_decide_the_length(tmp_path: Path) -> None:
    rows = [{"prompt": f"ask {n}", "completion": "say"} for n in range(200)]
    rows[16]["completion"] = "word " * 100_000
    job = propose(tmp_path, "a.jsonl", "\n".join(map(json.dumps, rows)).encode())
    assert job.spec.hyperparameters.max_sequence_length == 256
    assert job.spec.dataset.on_too_long == "Drop"
    text, _ = render_starter(file=tmp_path / "job.yaml", data=str(tmp_path / "a.jsonl"))
    assert re.search(r"a\.jsonl:17: about [1-9][0-9]{2},[0-9]{3} tokens", text)
    rows[16]["completion"] = "say"
    job = propose(tmp_path, "a.jsonl", "\n".join(map(json.dumps, rows)).encode())
    assert job.spec.dataset.on_too_long == "Refuse"
