"""A system message and a history beside the prompt of a row are used, never dropped."""

from __future__ import annotations

import json
from typing import Any

import pytest

from finetune_api.v1alpha1.spec.dataset import Source
from finetune_trainer.data.rows import BadRow
from finetune_trainer.prepare.reading.formats.formats import build_convert
from finetune_trainer.prepare.reading.formats.recognition import recognise_format

SYSTEM = {"role": "system", "content": "Be brief."}
EARLIER = [{"role": "user", "content": "Hi?"}, {"role": "assistant", "content": "Hello."}]
ASKED = {"role": "user", "content": "And now?"}
LEARNED = {"role": "assistant", "content": "Later."}
PAIRS = [["Hi?", "Hello."]]
NAN = float("nan")


def convert(
    row: dict[str, Any], *, conversational: bool = True, objective: str = "SFT", **settings: Any
) -> dict[str, Any]:
    source = Source.model_validate({"uri": "file:///rows.jsonl", **settings})
    recognised = recognise_format(source, [row], where="s", objective=objective)
    return build_convert(source, recognised.format, conversational=conversational, where="s")(row)


ALPACA = {"instruction": "And now?", "input": "", "output": "Later."}
PLAIN = {"prompt": "And now?", "completion": "Later."}
MESSAGES = {"prompt": [ASKED], "completion": [LEARNED]}


@pytest.mark.parametrize("row", [PLAIN, ALPACA, MESSAGES, {**PLAIN, "prompt": [ASKED]}])
@pytest.mark.parametrize(
    ("beside", "before"),
    [
        ({"system": "Be brief."}, [SYSTEM]),
        ({"history": PAIRS}, EARLIER),
        ({"history": [tuple(PAIRS[0])]}, EARLIER),
        ({"history": json.dumps(PAIRS)}, EARLIER),
        ({"history": EARLIER}, EARLIER),
        ({"history": [SYSTEM, *EARLIER]}, [SYSTEM, *EARLIER]),
        ({"system": "Be brief.", "history": PAIRS * 2}, [SYSTEM, *EARLIER * 2]),
        ({"system": " ", "history": []}, []),
        ({"system": None, "history": None}, []),
        ({"system": NAN, "history": NAN}, []),
        ({"system": "", "history": ""}, []),
        ({"history": "[]"}, []),
    ],
)
def test_what_stands_beside_a_pair_goes_before_its_prompt(
    row: dict[str, Any], beside: dict[str, Any], before: list[dict[str, str]]
) -> None:
    assert convert({**row, **beside}) == {"prompt": [*before, ASKED], "completion": [LEARNED]}


def test_a_history_goes_between_the_prompts_own_system_message_and_its_turns() -> None:
    row = {"prompt": [SYSTEM, ASKED], "completion": [LEARNED], "history": PAIRS}
    assert convert(row)["prompt"] == [SYSTEM, *EARLIER, ASKED]


def test_a_system_message_beside_a_conversation_begins_it() -> None:
    row = {"messages": [ASKED, LEARNED], "system": "Be brief."}
    assert convert(row) == {"messages": [SYSTEM, ASKED, LEARNED]}


def test_both_answers_of_a_preference_follow_the_same_preamble() -> None:
    row = {"prompt": "And now?", "chosen": "Later.", "rejected": "No.", "system": "Be brief."}
    found = convert({**row, "history": PAIRS}, objective="DPO")
    assert found["prompt"] == [SYSTEM, *EARLIER, ASKED]
    assert found["rejected"] == [{"role": "assistant", "content": "No."}]


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [SYSTEM, ASKED, LEARNED], "system": "Be brief."},
        {**PLAIN, "prompt": [SYSTEM, ASKED], "system": "Be brief."},
        {**PLAIN, "history": [SYSTEM, *EARLIER], "system": "Be brief."},
        {**PLAIN, "system": "Be brief."},
    ],
)
def test_the_same_system_message_twice_is_one(row: dict[str, Any]) -> None:
    found = convert(row, system="Be brief.")
    written = found.get("messages") or found["prompt"]
    assert written[0] == SYSTEM
    assert [message["role"] for message in written].count("system") == 1


@pytest.mark.parametrize(
    ("row", "settings", "message"),
    [
        ({"messages": [SYSTEM, ASKED, LEARNED], "system": "Other."}, {}, "`system`, and one among"),
        ({**PLAIN, "prompt": [SYSTEM, ASKED], "system": "Other."}, {}, "`system`, and one among"),
        ({**PLAIN, "history": [SYSTEM, *EARLIER], "system": "x"}, {}, "`system`, and one among"),
        ({**PLAIN, "system": "Other."}, {"system": "Be brief."}, "the source sets `system`"),
        ({**PLAIN, "history": [SYSTEM, *EARLIER]}, {"system": "x"}, "the source sets `system`"),
    ],
)
def test_two_system_messages_that_differ_are_refused(
    row: dict[str, Any], settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(BadRow, match=message) as caught:
        convert(row, **settings)
    assert caught.value.reason == "TwoSystemMessages"


@pytest.mark.parametrize(
    ("beside", "reason", "message"),
    [
        ({"system": 5}, "NotText", "system is a number"),
        ({"history": "since 2010"}, "NotMessages", "history is text; expected a list of [question"),
        (
            {"history": [["Hi?"]]},
            "NotMessages",
            "history[0] is a list; expected [question, answer]",
        ),
        ({"history": ["Hi?"]}, "NotMessages", "history[0] is text"),
        ({"history": [["Hi?", " "]]}, "EmptyText", "history[0][1] is empty"),
        ({"history": [["Hi?", None]]}, "MissingField", "history[0][1] is missing"),
        ({"history": EARLIER[:1]}, "WrongRoleOrder", "history + prompt"),
    ],
)
def test_what_is_no_preamble_makes_the_row_invalid(
    beside: dict[str, Any], reason: str, message: str
) -> None:
    with pytest.raises(BadRow) as caught:
        convert({**PLAIN, **beside})
    assert caught.value.reason == reason
    assert message in caught.value.message


def test_a_model_without_template_gets_the_system_message_as_text_and_no_history() -> None:
    found = convert({**PLAIN, "system": "Be brief."}, conversational=False)
    assert found == {"prompt": "Be brief.\n\nAnd now?", "completion": "Later."}
    assert convert({**PLAIN, "history": []}, conversational=False) == PLAIN
    with pytest.raises(BadRow, match="history holds earlier turns") as caught:
        convert({**PLAIN, "history": PAIRS}, conversational=False)
    assert caught.value.reason == "NoChatTemplate"


@pytest.mark.parametrize(
    "settings",
    [
        {"columns": {"prompt": "prompt", "completion": "completion"}},
        {"template": "{{ system }}: {{ prompt }}"},
        {"format": "Alpaca", "template": "{{ prompt }}", "columns": {"completion": "completion"}},
    ],
)
def test_columns_of_a_table_and_of_a_template_are_the_users_own(settings: dict[str, Any]) -> None:
    found = convert({**PLAIN, "system": "Windows 11", "history": "since 2010"}, **settings)
    assert [message["role"] for message in found["prompt"]] == ["user"]
