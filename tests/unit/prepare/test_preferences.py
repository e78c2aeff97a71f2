"""Preferences are read in every shape they come in, and what is none is refused with its row."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from finetune_api.v1alpha1.spec.dataset import Source
from finetune_trainer.data.rows import BadRow, Example, RawRow, RowError, other_answer
from finetune_trainer.errors import DataError, UserError
from finetune_trainer.prepare.reading.examples import open_source
from finetune_trainer.prepare.reading.formats.formats import build_convert
from finetune_trainer.prepare.reading.formats.paired import find_pair
from finetune_trainer.prepare.reading.formats.recognition import recognise_format
from finetune_trainer.prepare.reading.formats.verdicts import are_verdicts
from finetune_trainer.prepare.reading.proposals import propose_reading
from finetune_trainer.prepare.reading.sources import describe_file
from finetune_trainer.prepare.refusals.refusals import require_preferences

USER = {"role": "user", "content": "Hi?"}
SYSTEM = {"role": "system", "content": "Be short."}


def said(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def convert(fields: dict[str, Any], *, conversational: bool = True, **source: Any) -> Any:
    settings = Source.model_validate({"uri": "file:///x", **source})
    read = build_convert(settings, "Preference", conversational=conversational, where="s")
    return read(fields)


PAIR = {"prompt": [USER], "completion": [said("Yes.")], "rejected": [said("No.")]}


@pytest.mark.parametrize(
    "fields",
    [
        {"prompt": "Hi?", "chosen": "Yes.", "rejected": "No."},
        {"prompt": [USER], "chosen": [said("Yes.")], "rejected": [said("No.")]},
        {"chosen": [USER, said("Yes.")], "rejected": [USER, said("No.")]},
        {"prompt": "Hi?", "chosen": [USER, said("Yes.")], "rejected": [USER, said("No.")]},
        {"prompt": "Hi?", "chosen": "Yes.", "rejected": "No.", "label": True},
    ],
)
def test_pair_is_the_same_in_every_shape(fields: dict[str, Any]) -> None:
    assert convert(fields) == PAIR


TOOLS = [{"type": "function", "function": {"name": "find", "parameters": {"type": "object"}}}]
OPENAI = {
    "input": {"messages": [USER], "tools": TOOLS, "parallel_tool_calls": True},
    "preferred_output": [said("Yes.")],
    "non_preferred_output": [said("No.")],
}


def read_file(folder: Path, row: dict[str, Any], objective: str, **source: Any) -> Any:
    """Return what the stage makes of a file of one row."""
    file = folder / "rows.jsonl"
    file.write_text(json.dumps(row) + "\n")
    opened = open_source(
        Source.model_validate({"uri": "file:///x", **source}),
        [describe_file(file, name=file.name)],
        index=0,
        label="",
        conversational=True,
        objective=objective,
    )
    assert opened.conversion is not None
    ((name, raw),) = opened.rows
    assert isinstance(raw, RawRow)
    return opened.conversion.build()(name, raw)


@pytest.mark.parametrize("objective", ["DPO", "ORPO", "KTO"])
def test_openai_preferences_are_pairs_with_their_tools(objective: str, tmp_path: Path) -> None:
    example = read_file(tmp_path, OPENAI, objective)
    assert example.row == {**PAIR, "tools": TOOLS}
    assert other_answer(example.row)["tools"] == TOOLS


def test_openai_preferences_are_examples_by_their_preferred_answer_alone(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        recognise("SFT", OPENAI)
    assert "method.objective: DPO" in caught.value.message
    columns = {"prompt": "input", "completion": "preferred_output"}
    assert "{prompt: input, completion: preferred_output}" in caught.value.message
    example = read_file(tmp_path, OPENAI, "SFT", format="Csv", columns=columns)
    assert example.row == {"prompt": [USER], "completion": [said("Yes.")], "tools": TOOLS}


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        ("chosen", "rejected"),
        ("preferred", "non_preferred"),
        ("chosen_response", "rejected_response"),
        ("response_chosen", "responseRejected"),
        ("better", "worse"),
        ("good_answer", "bad_answer"),
        ("Preferred Output", "Dispreferred Output"),
    ],
)
def test_pairs_are_found_by_names_that_differ_in_a_word(better: str, worse: str) -> None:
    rows = [{"id": n, "prompt": f"ask {n}", worse: "No.", better: f"Yes, {n}."} for n in range(3)]
    assert find_pair(rows) == (better, worse)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("good", "bad"),
        ("accepted", "rejected"),
        ("winner", "loser"),
        ("score_chosen", "score_rejected"),
        ("chosen_answer", "rejected_reason"),
        ("answer", "question"),
    ],
)
def test_ordinary_columns_are_no_pairs(first: str, second: str) -> None:
    assert find_pair([{"prompt": "ask", first: "some words", second: "other words"}]) is None
    assert find_pair([{"prompt": "ask", "chosen": 17, "rejected": "3.5"}]) is None


@pytest.mark.parametrize("worse", ["non_prefixed", "rejected", "worse_text", "BadReply", "bad"])
def test_an_unwanted_answer_is_never_proposed_to_be_learned(worse: str) -> None:
    rows = [{"frage": f"ask {n}", "antwort": f"say {n}", worse: f"no {n}"} for n in range(4)]
    assert propose_reading(rows, where="s").completion == "antwort"
    with pytest.raises(DataError, match="completion: antwort"):
        recognise("SFT", rows[0])


@pytest.mark.parametrize("empty", [[], None, "[]", ""])
@pytest.mark.parametrize("field", ["preferred_output", "non_preferred_output"])
def test_an_empty_answer_is_refused_with_its_row_and_field(
    field: str, empty: object, tmp_path: Path
) -> None:
    columns = {"chosen": "preferred_output", "rejected": "non_preferred_output"}
    error = read_file(tmp_path, {**OPENAI, field: empty}, "DPO", columns=columns)
    assert isinstance(error, RowError)
    assert (error.reason, error.line) == ("MissingField" if empty is None else "EmptyAnswer", 1)
    assert error.message.startswith(field)


def test_an_empty_list_is_an_answer_where_answers_are_lists(tmp_path: Path) -> None:
    refused = read_file(tmp_path, {"prompt": "Hi?", "completion": []}, "SFT")
    assert (refused.reason, refused.message.split()[0]) == ("EmptyAnswer", "completion")
    file = tmp_path / "rows.jsonl"
    rows = [{"prompt": f"Find {n}", "completion": ["Rome"] * n} for n in range(2)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = Source.model_validate({"uri": "file:///x"})
    files = [describe_file(file, name=file.name)]
    opened = open_source(source, files, index=0, label="", conversational=True)
    assert opened.conversion is not None
    read = opened.conversion.build()
    examples = [read(name, row) for name, row in opened.rows if isinstance(row, RawRow)]
    assert [e.row["completion"] for e in examples if isinstance(e, Example)] == [
        [said("[]")],
        [said('["Rome"]')],
    ]


def test_conversations_that_part_late_share_their_earlier_turns() -> None:
    before = [SYSTEM, USER, said("Yes?"), {"role": "user", "content": "Go on."}]
    row = convert({"chosen": [*before, said("One.")], "rejected": [*before, said("Two.")]})
    assert row["prompt"] == before
    assert row["completion"] == [said("One.")]


def test_model_without_template_gets_text() -> None:
    row = convert({"prompt": "a", "chosen": "b", "rejected": "c"}, conversational=False)
    assert row == {"prompt": "a", "completion": "b", "rejected": "c"}


def test_columns_and_template_name_what_is_where() -> None:
    columns = {"chosen": "good", "rejected": "bad"}
    fields = {"q": "Hi?", "good": "Yes.", "bad": "No."}
    assert convert(fields, columns=columns, template="{{ q }}") == PAIR


@pytest.mark.parametrize(("label", "expected"), [(True, True), ("false", False), ("True", True)])
def test_verdict_is_a_boolean_or_its_name(label: object, expected: bool) -> None:
    row = convert({"prompt": "Hi?", "completion": "Yes.", "label": label})
    assert row == {"prompt": [USER], "completion": [said("Yes.")], "label": expected}


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"prompt": "a", "chosen": "b", "rejected": "b"}, "EqualAnswers"),
        ({"chosen": "b", "rejected": "c"}, "MissingField"),
        ({"prompt": "a", "chosen": "b"}, "MissingColumn"),
        ({"prompt": "a", "chosen": "b", "rejected": " "}, "EmptyAnswer"),
        ({"prompt": "a", "completion": "b", "label": "maybe"}, "NoVerdict"),
        ({"prompt": "a", "completion": "b", "label": None}, "NoVerdict"),
        ({"chosen": [USER, said("b")], "rejected": [SYSTEM, USER, said("c")]}, "NoSharedPrompt"),
    ],
)
def test_row_without_a_preference_is_refused(fields: dict[str, Any], reason: str) -> None:
    with pytest.raises(BadRow) as caught:
        convert(fields)
    assert caught.value.reason == reason


def recognise(objective: str, row: dict[str, Any], **source: Any) -> str:
    settings = Source.model_validate({"uri": "file:///x", **source})
    return recognise_format(settings, [row], where="s", objective=objective).format


LABELLED = {"prompt": "a", "completion": "b", "label": True}


def test_objective_decides_what_a_label_means() -> None:
    assert recognise("KTO", LABELLED) == "Preference"
    assert recognise("SFT", LABELLED) == "PromptCompletion"
    assert recognise("DPO", {"prompt": "a", "chosen": "b", "rejected": "c"}) == "Preference"
    assert recognise("KTO", {"prompt": "a", "chosen": "b", "rejected": "c"}) == "Preference"


def test_rows_that_the_objective_cannot_learn_from_are_refused_with_the_remedy() -> None:
    with pytest.raises(DataError, match="KTO learns from rows with a label"):
        recognise("DPO", LABELLED)
    with pytest.raises(DataError, match="needs rows with chosen and rejected"):
        recognise("ORPO", {"messages": []})
    with pytest.raises(UserError, match="use Auto or Preference instead of Chat"):
        recognise("DPO", {"messages": []}, format="Chat")


def write_sides(folder: Path, train: list[dict[str, Any]]) -> Path:
    folder.mkdir(exist_ok=True)
    for side, rows in (("train", train), ("validation", [])):
        (folder / f"{side}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.mark.parametrize(
    ("objective", "rows", "reason"),
    [
        ("KTO", [{"label": True}, {"label": False}], None),
        ("KTO", [{"label": True}, {"rejected": "x"}], None),
        ("KTO", [{"label": False}, {"label": False}], "OneVerdict"),
        ("DPO", [{"rejected": "x"}], None),
        ("DPO", [{"rejected": "x"}, {"label": True}], "NoPreferences"),
        ("SFT", [{}], None),
    ],
)
def test_training_side_must_hold_what_the_objective_compares(
    tmp_path: Path, objective: str, rows: list[dict[str, Any]], reason: str | None
) -> None:
    folder = write_sides(tmp_path / "data", rows)
    if reason is None:
        require_preferences(objective, folder)
        return
    with pytest.raises(DataError) as caught:
        require_preferences(objective, folder)
    assert caught.value.reason == reason


ASKED = {"from": "human", "value": "Hi?"}
GOOD, BAD = {"from": "gpt", "value": "Yes."}, {"from": "gpt", "value": "No."}
ALPACA_PAIR = {"instruction": "Hi?", "input": "", "chosen": "Yes.", "rejected": "No."}


@pytest.mark.parametrize(
    "fields",
    [
        {"conversations": [ASKED], "chosen": GOOD, "rejected": BAD},
        {"conversations": json.dumps([ASKED]), "chosen": [GOOD], "rejected": [BAD]},
        {"conversations": [USER], "chosen": said("Yes."), "rejected": said("No.")},
        {"conversations": [ASKED], "chosen": "Yes.", "rejected": "No."},
        {"messages": [USER], "chosen": [said("Yes.")], "rejected": [said("No.")]},
        {"chosen": [ASKED, GOOD], "rejected": [ASKED, BAD]},
        {
            "messages": "both",
            "chosen": [USER, said("Yes.")],
            "rejected": [USER, said("No.")],
        },
        ALPACA_PAIR,
        {**ALPACA_PAIR, "system": "", "history": []},
    ],
)
def test_pair_of_llama_factory_is_the_same(fields: dict[str, Any]) -> None:
    assert recognise("DPO", fields) == "Preference"
    assert convert(fields) == PAIR


def test_pair_of_llama_factory_keeps_system_message_and_input() -> None:
    fields = {"conversations": [ASKED], "chosen": GOOD, "rejected": BAD, "system": "Be short."}
    assert convert(fields) == {**PAIR, "prompt": [SYSTEM, USER]}
    row = convert({**ALPACA_PAIR, "input": "Now?", "history": [["a", "b"]]})
    assert [message["content"] for message in row["prompt"]] == ["a", "b", "Hi?\n\nNow?"]
    assert convert(ALPACA_PAIR, conversational=False)["prompt"] == "Hi?\n\n"


def test_an_answer_that_is_an_object_stays_json() -> None:
    row = convert({"prompt": "Hi?", "chosen": {"from": "Rome"}, "rejected": {"from": "Oslo"}})
    assert row["completion"] == [said('{"from": "Rome"}')]


WANTED = {"prompt": [USER], "completion": [said("Yes.")], "label": True}


@pytest.mark.parametrize(
    "fields",
    [
        {"prompt": "Hi?", "completion": "Yes.", "label": 1},
        {"prompt": "Hi?", "completion": "Yes.", "label": " YES "},
        {"prompt": "Hi?", "completion": "Yes.", "kto_tag": True},
        {"instruction": "Hi?", "input": "", "output": "Yes.", "kto_tag": True},
        {"messages": [USER, said("Yes.")], "label": "true"},
        {"conversations": [ASKED, GOOD], "kto_tag": 1.0},
    ],
)
def test_an_answer_with_a_verdict_is_read_in_every_shape(fields: dict[str, Any]) -> None:
    assert recognise("KTO", fields) == "Preference"
    assert convert(fields) == WANTED


def alternate(first: object, second: object) -> list[dict[str, Any]]:
    """Twenty rows with different answers, whose labels take turns."""
    return [
        {
            "prompt": f"q{n}",
            "completion": f"answer {n}",
            "label": second if n % 2 else first,
        }
        for n in range(20)
    ]


def without(rows: list[dict[str, Any]], **more: Any) -> list[dict[str, Any]]:
    return [{"label": row["label"], **more} for row in rows]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (alternate(True, False), True),
        (alternate("true", "False"), True),
        (alternate(1, 0), True),
        (alternate(1.0, 0.0), True),
        (alternate("yes", "no"), True),
        (alternate(None, False), True),
        (alternate(float("nan"), "no"), True),
        (alternate(True, True), False),
        (alternate(None, None), False),
        (alternate("spam", "ham"), False),
        (alternate(1, 2), False),
        (without(alternate(1, 0), instruction="a", output="b"), True),
        (without(alternate(True, False), messages=[]), True),
        (without(alternate(True, False), text="a"), False),
        # The number of a class beside its name says nothing about the answer.
        ([{"prompt": "q", "completion": "ab"[n % 2], "label": n % 2} for n in range(20)], False),
        ([{"prompt": "q", "completion": "a", "label": n % 2} for n in range(20)], True),
    ],
)
def test_verdicts_are_told_from_classes(rows: list[dict[str, Any]], expected: bool) -> None:
    assert are_verdicts(rows) is expected
    proposal = propose_reading(rows, where="rows.jsonl") if "text" not in rows[0] else None
    if expected:
        assert proposal is not None
        assert (proposal.objective, proposal.format) == ("KTO", "Preference")
        with pytest.raises(DataError, match=r"set method.objective: KTO") as caught:
            recognise_format(Source(uri="file:///x"), rows, where="s")
        assert caught.value.reason == "VerdictsNotExamples"
    elif proposal is not None:
        assert proposal.objective == "SFT"


@pytest.mark.parametrize("value", [False, "false"])
@pytest.mark.parametrize(
    "fields",
    [
        {"prompt": "a", "completion": "b"},
        {"instruction": "a", "output": "b"},
        {"messages": [USER, said("b")]},
        {"conversations": [ASKED, BAD]},
    ],
)
def test_an_unwanted_answer_behind_many_wanted_ones_is_no_example(
    fields: dict[str, Any], value: object
) -> None:
    source = Source(uri="file:///x")
    found = recognise_format(source, [{**fields, "label": True}] * 20, where="s").format
    read = build_convert(source, found, conversational=True, where="s")
    assert read({**fields, "label": True})
    with pytest.raises(BadRow, match=f"set format: {found} in its source") as caught:
        read({**fields, "label": value})
    assert caught.value.reason == "UnwantedAnswer"
    source = Source.model_validate({"uri": "file:///x", "format": found})
    meant = build_convert(source, found, conversational=True, where="s")
    assert meant({**fields, "label": value})
