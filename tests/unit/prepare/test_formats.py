"""Rows of every format become canonical rows; unusable ones are refused with the reason."""

from __future__ import annotations

import json
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from finetune_api.v1alpha1.spec.dataset import Source
from finetune_trainer.data.rows import BadRow, is_in_slice, make_example, replace_group
from finetune_trainer.errors import DataError, UserError
from finetune_trainer.prepare.reading.examples import open_source
from finetune_trainer.prepare.reading.formats.formats import build_convert, read_group, read_slices
from finetune_trainer.prepare.reading.formats.recognition import format_of_row, recognise_format
from finetune_trainer.prepare.reading.sources import describe_file

PAIRS = {"format": "PromptCompletion"}
NAN = float("nan")
WHEN = '{"when": "2024-05-01", "at": "2024-05-01 07:00:00"}'
USER = {"role": "user", "content": "Hi"}
ANSWER = {"role": "assistant", "content": "Hello"}
SYSTEM = {"role": "system", "content": "Be brief."}
PAIR = {"prompt": [USER], "completion": [ANSWER]}
TOOL = {"role": "tool", "content": "42"}
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}


def make_call(arguments: Any) -> dict[str, Any]:
    function = {"name": "weather", "arguments": arguments}
    call = {"id": "c1", "type": "function", "function": function}
    return {"role": "assistant", "content": None, "tool_calls": [call]}


CALL = make_call("{}")


def make_source(**fields: Any) -> Source:
    return Source(uri="file:///data/rows.jsonl", **fields)


def convert(row: dict[str, Any], *, conversational: bool = True, **fields: Any) -> dict[str, Any]:
    source = make_source(**fields)
    recognised = recognise_format(source, [row], where="dataset.sources[0]")
    function = build_convert(
        source, recognised.format, conversational=conversational, where="dataset.sources[0]"
    )
    return function(row)


def from_value(*turns: tuple[str, str]) -> dict[str, Any]:
    return {"conversations": [{"from": role, "value": text} for role, text in turns]}


@pytest.mark.parametrize(
    ("row", "settings", "expected"),
    [
        ({"messages": [USER, ANSWER]}, {}, {"messages": [USER, ANSWER]}),
        ({"messages": [SYSTEM, USER, ANSWER]}, {}, {"messages": [SYSTEM, USER, ANSWER]}),
        (
            {"messages": [{**USER, "name": "x", "tool_calls": None}, ANSWER], "id": 7},
            {"system": "Be brief."},
            {"messages": [SYSTEM, USER, ANSWER]},
        ),
        (
            from_value(("system", "Be brief."), ("human", "Hi"), ("gpt", "Hello")),
            {},
            {"messages": [SYSTEM, USER, ANSWER]},
        ),
        (
            {**from_value(("human", "Hi"), ("gpt", "Hello")), "system": "Be brief."},
            {},
            {"messages": [SYSTEM, USER, ANSWER]},
        ),
        ({"conversations": [USER, ANSWER]}, {}, {"messages": [USER, ANSWER]}),
        ({"messages": json.dumps([USER, ANSWER])}, {}, {"messages": [USER, ANSWER]}),
        (
            {
                "conversations": json.dumps(
                    from_value(("human", "Hi"), ("gpt", "Hello"))["conversations"]
                )
            },
            {},
            {"messages": [USER, ANSWER]},
        ),
        ({"prompt": "Hi", "completion": "Hello"}, {}, PAIR),
        (
            {"prompt": "Hi", "completion": "Hello"},
            {"system": "Be brief."},
            {"prompt": [SYSTEM, USER], "completion": [ANSWER]},
        ),
        ({"prompt": [USER], "completion": [ANSWER]}, {}, PAIR),
        ({"prompt": [USER], "completion": "Hello"}, {}, PAIR),
        ({"prompt": "Hi", "completion": [ANSWER]}, {}, PAIR),
        ({"text": "All of it."}, {}, {"text": "All of it."}),
        ({"instruction": "Hi", "output": "Hello"}, {}, PAIR),
        ({"instruction": "Hi", "input": "", "output": "Hello"}, {}, PAIR),
        (
            {"instruction": "Translate", "input": "Hallo", "output": "Hello"},
            {},
            {
                "prompt": [{"role": "user", "content": "Translate\n\nHallo"}],
                "completion": [ANSWER],
            },
        ),
        (
            {"utterance": "Hi", "reply": "Hello"},
            {"columns": {"prompt": "utterance", "completion": "reply"}},
            PAIR,
        ),
        ({"body": "All."}, {"columns": {"text": "body"}}, {"text": "All."}),
        (
            {"a": "H", "b b": "i", "reply": "Hello"},
            {"template": '{{ a }}{{ row["b b"] }}', "columns": {"completion": "reply"}},
            PAIR,
        ),
        (
            {"n": 3, "completion": "Hello"},
            {"template": "{{ n }}{% if extra is defined %}!{% endif %}"},
            {"prompt": [{"role": "user", "content": "3"}], "completion": [ANSWER]},
        ),
    ],
)
def test_a_good_row_becomes_canonical(
    row: dict[str, Any], settings: dict[str, Any], expected: dict[str, Any]
) -> None:
    assert convert(row, **settings) == expected


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (3, "3"),
        (3.0, "3"),
        (-0.5, "-0.5"),
        (1e300, "1e+300"),
        (2**70, str(2**70)),
        (True, "true"),
        ({"b": 1.0, "a": [None, "\u00e4<"]}, '{"b": 1, "a": [null, "\u00e4<"]}'),
        ({}, "{}"),
        ([], "[]"),
        ([1, {"x": False}], '[1, {"x": false}]'),
        (Decimal("1.50"), "1.50"),
        ({"when": date(2024, 5, 1), "at": datetime(2024, 5, 1, 7)}, WHEN),
    ],
)
def test_answers_that_are_no_text_are_written_as_json(answer: Any, text: str) -> None:
    expected = {"prompt": [USER], "completion": [{"role": "assistant", "content": text}]}
    assert convert({"prompt": "Hi", "completion": answer}) == expected
    assert convert({"prompt": [USER], "completion": answer}) == expected
    assert convert({"instruction": "Hi", "output": answer}) == expected
    assert convert({"a": answer, "completion": "x"}, template="{{ a }}")["prompt"] == [
        {"role": "user", "content": text}
    ]


def test_a_template_writes_json_without_escapes_and_nothing_for_null() -> None:
    row = {"a": "\u00e4<'", "b": None, "c": {"x": [1.0]}, "completion": "x"}
    template = "{{ a | tojson }}|{{ b }}|{{ c | tojson(indent=1) }}|{{ c }}"
    prompt = convert(row, template=template)["prompt"]
    expected = '"\u00e4<\'"||{\n "x": [\n  1\n ]\n}|{"x": [1]}'
    assert prompt == [{"role": "user", "content": expected}]


def test_input_that_is_json_follows_the_instruction() -> None:
    row = {"instruction": "Sum up", "input": {"a": 5}, "output": 5}
    assert convert(row, conversational=False) == {
        "prompt": 'Sum up\n\n{"a": 5}\n\n',
        "completion": "5",
    }


UNLEARNED = {**ANSWER, "weight": 0}


def weighed(*weights: Any) -> list[dict[str, Any]]:
    return [turn for weight in weights for turn in (USER, {**ANSWER, "weight": weight})]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"messages": weighed(1, 1)}, {"messages": [USER, ANSWER] * 2}),
        ({"messages": weighed(0, 1)}, {"messages": [USER, UNLEARNED, USER, ANSWER]}),
        ({"messages": weighed(0.0, None)}, {"messages": [USER, UNLEARNED, USER, ANSWER]}),
        ({"messages": weighed(0, float("nan"))}, {"messages": [USER, UNLEARNED, USER, ANSWER]}),
        ({"messages": weighed(1, 0)}, {"messages": [USER, ANSWER]}),
        ({"messages": [{**USER, "weight": 0}, ANSWER]}, {"messages": [USER, ANSWER]}),
        (
            {"prompt": [*weighed(0)[:2], USER], "completion": [ANSWER, *weighed(0)]},
            {"prompt": [USER, ANSWER, USER], "completion": [ANSWER]},
        ),
        (
            {"prompt": [USER], "completion": [UNLEARNED, USER, ANSWER]},
            {"prompt": [USER], "completion": [UNLEARNED, USER, ANSWER]},
        ),
    ],
)
def test_an_answer_of_weight_0_is_kept_as_context_and_never_ends_a_row(
    row: dict[str, Any], expected: dict[str, Any]
) -> None:
    assert convert(row) == expected


def test_a_weight_does_not_part_rows_of_the_same_prompt() -> None:
    def make(weight: int) -> Any:
        row = convert({"messages": [*weighed(weight), USER, ANSWER]})
        return make_example(row, file="a", line=1, side=None, group_value=None)

    assert make(0).group == make(1).group
    assert make(0).content != make(1).content


@pytest.mark.parametrize("tools", [[WEATHER], json.dumps([WEATHER])])
def test_calls_of_tools_are_read_as_openai_writes_them(tools: Any) -> None:
    row = {"messages": [USER, make_call('{"city": "Rome"}'), TOOL, ANSWER], "tools": tools}
    call = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Rome"}}}
    assert convert(row) == {
        "messages": [
            USER,
            {"role": "assistant", "content": "", "tool_calls": [{"id": "c1", **call}]},
            TOOL,
            ANSWER,
        ],
        "tools": [WEATHER],
    }


@pytest.mark.parametrize("functions", [[WEATHER["function"]], json.dumps([WEATHER["function"]])])
def test_functions_are_the_older_name_of_tools(functions: Any) -> None:
    row = {"messages": [USER, ANSWER], "functions": functions}
    assert convert(row) == {"messages": [USER, ANSWER], "tools": [WEATHER]}
    with pytest.raises(BadRow, match="tools must be a list"):
        convert({**row, "functions": [{"description": "no name"}]})


BARE = {"name": "weather", "parameters": {"type": "object"}}


@pytest.mark.parametrize("tools", [[BARE], json.dumps([BARE]), [{"type": "function", **BARE}]])
def test_tools_may_be_bare_functions(tools: Any) -> None:
    row = {"messages": [USER, ANSWER], "tools": tools}
    assert convert(row) == {"messages": [USER, ANSWER], "tools": [WEATHER]}


ROME = {"name": "weather", "arguments": {"city": "Rome"}}
CALL_IN_TEXT = json.dumps(ROME)


@pytest.mark.parametrize(
    ("value", "calls", "thought"),
    [
        (CALL_IN_TEXT, [ROME], {}),
        (ROME, [ROME], {}),
        (json.dumps([ROME, {**ROME, "arguments": '{"city": "Oslo"}'}]), [ROME, None], {}),
        (f"<think>\nLook.\n</think>\n{CALL_IN_TEXT}", [ROME], {"reasoning_content": "Look."}),
    ],
)
def test_calls_of_tools_are_read_as_llama_factory_writes_them(
    value: Any, calls: list[Any], thought: dict[str, str]
) -> None:
    row = from_value(("human", "Hi"), ("function_call", value), ("observation", "42"))
    row["conversations"].append({"from": "gpt", "value": "Hello"})
    oslo = {"name": "weather", "arguments": {"city": "Oslo"}}
    written = [{"type": "function", "function": call or oslo} for call in calls]
    called = {"role": "assistant", "content": "", **thought, "tool_calls": written}
    assert convert({**row, "tools": json.dumps([BARE])}) == {
        "messages": [USER, called, TOOL, ANSWER],
        "tools": [WEATHER],
    }


def test_parts_of_text_are_joined_and_reasoning_stays() -> None:
    parts = [{"type": "text", "text": "H"}, {"type": "text", "text": "i"}]
    answer = {**ANSWER, "reasoning_content": "Greeting."}
    developer = {"role": "developer", "content": "Be brief."}
    row = {"messages": [developer, {"role": "user", "content": parts}, answer]}
    assert convert(row) == {"messages": [developer, USER, answer]}


@pytest.mark.parametrize(
    ("row", "settings", "expected"),
    [
        ({"prompt": "Hi", "completion": "Hello"}, {}, {"prompt": "Hi", "completion": "Hello"}),
        (
            {"instruction": "Hi", "output": "Hello"},
            {"system": "Be brief."},
            {"prompt": "Be brief.\n\nHi\n\n", "completion": "Hello"},
        ),
        ({"text": "All."}, {}, {"text": "All."}),
    ],
)
def test_pairs_stay_text_for_a_model_without_chat_template(
    row: dict[str, Any], settings: dict[str, Any], expected: dict[str, Any]
) -> None:
    assert convert(row, conversational=False, **settings) == expected


@pytest.mark.parametrize(
    ("row", "settings", "reason", "message"),
    [
        ({"messages": [USER]}, {}, "NoAnswer", "must be the answer"),
        ({"messages": [SYSTEM]}, {}, "NoAnswer", "must be the answer"),
        ({"messages": [ANSWER]}, {}, "WrongRoleOrder", "messages[0] is from assistant"),
        ({"messages": [USER, USER, ANSWER]}, {}, "WrongRoleOrder", "messages[1] is from user"),
        ({"messages": [SYSTEM, USER, SYSTEM, ANSWER]}, {}, "WrongRoleOrder", "messages[2]"),
        ({"messages": []}, {}, "NotMessages", "an empty list"),
        ({"messages": "Hi"}, {}, "NotMessages", "is text"),
        ({"messages": "[{'role': 'user'}]"}, {}, "NotMessages", "a list in text that is not JSON"),
        ({"messages": "[" * 100_000}, {}, "NotMessages", "a list in text that is not JSON"),
        ({"messages": ["Hi"]}, {}, "NotMessages", "messages[0] is text"),
        ({"messages": [{"content": "Hi"}]}, {}, "UnknownRole", "messages[0].role is missing"),
        ({"messages": [{"role": "robot", "content": "Hi"}]}, {}, "UnknownRole", "'robot'"),
        ({"messages": [USER, TOOL]}, {}, "WrongRoleOrder", "messages[1] is from tool"),
        ({"messages": [USER, CALL, ANSWER]}, {}, "WrongRoleOrder", "expected tool"),
        ({"messages": [USER, CALL, TOOL]}, {}, "NoAnswer", "from tool"),
        (
            {"messages": [USER, {"role": "assistant", "function_call": {"name": "x"}}]},
            {},
            "ToolMessage",
            "messages[1]",
        ),
        ({"messages": [USER, ANSWER], "tools": [{"name": "x"}]}, {}, "InvalidTools", "function"),
        ({"messages": [USER, ANSWER], "tools": "{"}, {}, "InvalidToolCall", "not valid JSON"),
        (
            {"messages": [USER, make_call("[1]"), TOOL, ANSWER]},
            {},
            "InvalidToolCall",
            "messages[1].tool_calls[0].function.arguments must be a JSON object",
        ),
        (
            {"messages": [USER, {"role": "assistant", "content": " \n"}]},
            {},
            "EmptyAnswer",
            "messages[1] is an empty answer",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}, ANSWER]},
            {},
            "NotText",
            "messages[0].content has a part of type 'image_url'; only text can be trained",
        ),
        ({"messages": [{"role": "user"}, ANSWER]}, {}, "MissingField", "messages[0].content"),
        (
            {"messages": [SYSTEM, USER, ANSWER]},
            {"system": "Be kind."},
            "TwoSystemMessages",
            "remove one",
        ),
        (
            from_value(("human", "Hi"), ("function_call", "x")),
            {},
            "InvalidToolCall",
            "conversations[1].value is not valid JSON",
        ),
        (
            from_value(("human", "Hi"), ("function_call", '{"arguments": {}}')),
            {},
            "InvalidToolCall",
            "conversations[1].value must be JSON of {name, arguments}",
        ),
        (from_value(("human", "Hi"), ("tool_call", "x")), {}, "ToolMessage", "[1]"),
        (from_value(("human", "Hi"), ("narrator", "x")), {}, "UnknownRole", "human"),
        (
            {"messages": weighed(0, 0)},
            {},
            "NothingToLearn",
            "answer of messages has weight 0",
        ),
        ({"messages": weighed(0.5)}, {}, "UnknownWeight", "messages[1].weight is a number"),
        ({"messages": weighed(True)}, {}, "UnknownWeight", "1 (learn this answer) or 0"),
        ({"messages": weighed("0")}, {}, "UnknownWeight", "messages[1].weight is text"),
        ({"prompt": "Hi", "completion": ""}, {}, "EmptyAnswer", "completion is empty"),
        ({"prompt": "Hi", "completion": None}, PAIRS, "MissingField", "completion is missing"),
        ({"prompt": "Hi", "completion": NAN}, PAIRS, "MissingField", "completion is missing"),
        ({"prompt": "Hi", "completion": {"a": NAN}}, {}, "NotText", "a number that is not finite"),
        ({"prompt": "Hi", "completion": b"x"}, {}, "NotText", "completion holds binary data"),
        ({"prompt": " ", "completion": "Hello"}, {}, "EmptyText", "the prompt is empty"),
        ({"prompt": [USER, ANSWER], "completion": [ANSWER]}, {}, "WrongRoleOrder", "[2]"),
        ({"prompt": [USER], "completion": [ANSWER, USER, ANSWER]}, {}, None, ""),
        ({"text": 5}, {}, "NotText", "text is a number"),
        (
            {"q": "Hi"},
            {"columns": {"prompt": "q", "completion": "a"}},
            "MissingColumn",
            "no column 'a'; the row has: q",
        ),
        (
            {"headline": "Hi", "completion": "Hello"},
            {"template": "{{ heading }}"},
            "MissingColumn",
            "'heading' is undefined; the row has: headline, completion",
        ),
        (
            {"n": 0, "completion": "Hello"},
            {"template": "{{ 1 / n }}"},
            "TemplateFailed",
            "ZeroDivisionError",
        ),
        (
            {"n": "x", "completion": "Hello"},
            {"template": "{{ n.__class__.__mro__ }}"},
            "TemplateFailed",
            "SecurityError",
        ),
    ],
)
def test_an_unusable_row_is_refused_with_the_reason(
    row: dict[str, Any], settings: dict[str, Any], reason: str | None, message: str
) -> None:
    if reason is None:
        convert(row, **settings)
        return
    with pytest.raises(BadRow) as caught:
        convert(row, **settings)
    assert caught.value.reason == reason
    assert message in caught.value.message


@pytest.mark.parametrize(
    ("settings", "rows", "format_name", "reason"),
    [
        ({"format": "Text"}, [{"messages": []}], "Text", "set in the job"),
        ({}, [{"messages": [], "text": ""}], "Chat", "1 of the first 1 rows have messages"),
        ({}, [{"conversations": []}], "ShareGPT", "conversations"),
        ({}, [{"prompt": "", "completion": "", "text": ""}], "PromptCompletion", "prompt and"),
        ({}, [{"instruction": "", "output": ""}], "Alpaca", "instruction and output"),
        ({}, [{"text": "", "source_url": ""}], "Text", "have text"),
        ({"format": "Text"}, [{"text": "", "label": ""}], "Text", "set in the job"),
        ({"template": "x"}, [{"text": ""}], "Csv", "template or columns are set"),
        ({"columns": {"completion": "x"}}, [{"text": ""}], "Csv", "columns are set"),
        ({"columns": {"text": "body"}}, [{"body": ""}], "Text", "columns.text is set"),
        ({"columns": {"group": "user"}}, [{"messages": []}], "Chat", "messages"),
        ({}, [{"text": ""}] * 3 + [{"messages": []}] * 17, "Chat", "17 of the first 20 rows"),
        ({}, [{"messages": None, "text": ""}], "Text", "have text"),
        ({}, [{"text": ""}] * 2 + [{"prompt": "", "completion": ""}], "Text", "2 of the first 3"),
        ({}, [{"text": ""}] * 2 + [{"prompt": "", "chosen": "", "rejected": ""}], "Text", "2 of"),
        ({}, [{"text": "", "chosen": None, "rejected": None, "answer": None}], "Text", "have text"),
    ],
)
def test_the_format_is_recognised_with_the_reason(
    settings: dict[str, Any], rows: list[dict[str, Any]], format_name: str, reason: str
) -> None:
    recognised = recognise_format(make_source(**settings), rows, where="dataset.sources[0]")
    assert recognised.format == format_name
    assert reason in recognised.reason


@pytest.mark.parametrize(
    ("row", "usual", "found"),
    [
        ({"text": "a"}, "Chat", "Text"),
        ({"text": "a", "order_id": 7, "lang": "en", "note": None}, "Chat", "Text"),
        ({"text": "a", "chosen": "b", "rejected": "c"}, "Chat", "Chat"),
        ({"text": "a", "target_text": "b"}, "Chat", "Chat"),
        ({"text": "a", "expected_output": "b"}, "PromptCompletion", "PromptCompletion"),
        ({"text": "a", "instruction": "b", "output": ""}, "Chat", "Chat"),
        ({"prompt": "a", "completion": "b"}, "Text", "PromptCompletion"),
    ],
)
def test_a_row_is_plain_text_only_without_columns_that_may_hold_its_answer(
    row: dict[str, Any], usual: str, found: str
) -> None:
    assert format_of_row(row, usual) == found


def test_a_text_beside_the_group_time_or_slice_of_its_source_is_plain_text(tmp_path: Path) -> None:
    rows = [{"prompt": "a", "completion": "b"}, {"text": "c", "team": 1, "day": "d", "tier": "e"}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    source = make_source(columns={"group": "team", "time": "day", "slices": ["tier"]})
    files = [describe_file(tmp_path / "a.jsonl", name="a.jsonl")]
    conversion = open_source(source, files, index=0, label="", conversational=True).conversion
    assert conversion is not None
    assert list(map(conversion.format_of, rows)) == ["PromptCompletion", "Text"]
    assert conversion.format_of({**rows[1], "target_text": "f"}) == "PromptCompletion"


def test_an_answer_beside_a_text_is_not_left_out_without_a_word() -> None:
    with pytest.raises(DataError) as caught:
        recognise_format(make_source(), [{"text": "", "Label": 1}], where="dataset.sources[0]")
    assert caught.value.reason == "AnswerBesideText"
    assert "columns: {prompt: text, completion: Label}" in caught.value.message


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"question": "", "answer": ""}, "columns: {prompt: question, completion: answer}"),
        ({"prompt": "", "chosen": "", "rejected": ""}, "preference pairs"),
        ({}, "Chat (messages)"),
        ({f"c{n}": "" for n in range(30)}, "c19 and 10 more"),
    ],
)
def test_an_unknown_format_lists_fields_and_known_formats(
    row: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError) as caught:
        recognise_format(make_source(), [row], where="dataset.sources[0]")
    assert caught.value.reason == "UnknownFormat"
    assert message in caught.value.message
    assert "dataset.sources[0]" in caught.value.message
    assert "Alpaca" in caught.value.message


@pytest.mark.parametrize(
    ("settings", "conversational", "reason", "message"),
    [
        (
            {"format": "Csv", "template": "{{ a"},
            True,
            "InvalidTemplate",
            "template: not valid Jinja: line 1",
        ),
        ({"format": "Chat", "template": "x"}, True, "TemplateNotApplicable", "Chat"),
        ({"format": "Text", "system": "x"}, True, "SystemNotApplicable", "plain text"),
        ({"format": "Chat"}, False, "NoChatTemplate", "no chat template"),
        ({"format": "ShareGPT"}, False, "NoChatTemplate", "instruction-tuned"),
    ],
)
def test_settings_that_do_not_fit_are_refused(
    settings: dict[str, Any], conversational: bool, reason: str, message: str
) -> None:
    source = make_source(**settings)
    with pytest.raises(UserError) as caught:
        build_convert(
            source, source.format, conversational=conversational, where="dataset.sources[0]"
        )
    assert caught.value.reason == reason
    assert message in caught.value.message


def test_group_is_read_as_text_and_must_be_there() -> None:
    assert read_group({"customer": 7}, "customer") == "7"
    assert read_group({"customer": 0}, "customer") == "0"
    assert read_group({}, None) is None
    with pytest.raises(BadRow, match="no column 'customer'"):
        read_group({"id": 1}, "customer")
    with pytest.raises(BadRow, match="is empty"):
        read_group({"customer": " "}, "customer")


def test_half_a_surrogate_pair_is_refused() -> None:
    with pytest.raises(BadRow, match="not valid UTF-8"):
        make_example({"text": "a\ud800"}, file="a", line=1, side=None, group_value=None)


def test_rows_with_the_same_prompt_share_a_group_and_not_the_content() -> None:
    def make(answer: str, group: str | None = None) -> Any:
        row = {"prompt": [USER], "completion": [{"role": "assistant", "content": answer}]}
        return make_example(row, file="a", line=1, side=None, group_value=group)

    assert make("x").group == make("y").group
    assert make("x").content != make("y").content
    assert make("x").content == make("x", "g").content
    assert make("x").group != make("x", "g").group
    assert make("x", "g").group == make("y", "g").group


def test_values_of_columns_for_slices_are_kept_as_digests_only() -> None:
    fields = {"language": " de ", "score": 5, "is_new": True, "note": "", "who": "Ann Smith"}
    columns = ["language", "score", "is_new", "note", "absent", "who"]
    found = read_slices(fields, columns)
    assert [name for name, _ in found] == ["language", "score", "is_new", "who"]
    example = make_example(
        {"prompt": "p", "completion": "c"},
        file="f",
        line=1,
        side=None,
        group_value=None,
        slices=found,
    )
    line = f"{example.to_json()}\n".encode()
    assert b"Smith" not in line
    row = json.loads(replace_group(line, "0" * 64))
    assert row["metadata"]["group"] == "0" * 16
    for column, value in {"language": "de", "score": "5", "is_new": "true"}.items():
        assert is_in_slice(row, column, value)
        assert is_in_slice(row, column, f" {value}")
    assert not is_in_slice(row, "language", "DE")
    assert not is_in_slice(row, "note", "")
    assert read_slices(fields, ()) == ()
