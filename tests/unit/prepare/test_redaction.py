"""A row's values become placeholders that say as much as the values did to the task."""

from __future__ import annotations

import json
import pickle
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_api.v1alpha1.spec.privacy import Privacy
from finetune_trainer.data.rows import (
    QUOTED_CHARACTERS,
    Example,
    RowError,
    make_example,
    make_snippet,
)
from finetune_trainer.prepare.checks.screening import Removal, Screening
from finetune_trainer.prepare.privacy.finding import Settings
from finetune_trainer.prepare.privacy.redaction import redact_row, redact_text
from finetune_trainer.prepare.privacy.step import PrivacyStep, make_shield, privacy_steps

ALL = Settings()


def redacted(row: dict[str, Any], settings: Settings = ALL) -> dict[str, Any]:
    return redact_row(row, settings).row


def example(prompt: str, answer: str, *, group: str | None = None) -> Example:
    row = {"prompt": prompt, "completion": answer}
    return make_example(row, file="rows.jsonl", line=3, side=None, group_value=group)


def step(action: str, **privacy: Any) -> PrivacyStep:
    (only,) = privacy_steps(Privacy(action=action, **privacy))
    return only


def test_a_value_has_one_placeholder_in_prompt_and_answer_however_it_is_written() -> None:
    row = {
        "prompt": "Mail Jane@X.example and bob@x.example, phone +49 30 901820.",
        "completion": "jane@x.example, +49 (30) 90-18-20",
    }
    assert redacted(row) == {
        "prompt": "Mail <EMAIL_1> and <EMAIL_2>, phone <PHONE_1>.",
        "completion": "<EMAIL_1>, <PHONE_1>",
    }


def test_a_value_that_a_word_gave_away_is_known_where_no_word_does() -> None:
    row = {"prompt": "My BSN is 111222333, please fill in the form.", "completion": "bsn"}
    row["completion"] = "Done: " + "x" * 80 + " 111222333"
    assert "111222333" not in json.dumps(redacted(row))


def test_the_question_of_a_turn_tells_what_its_answer_holds() -> None:
    turns = [
        {"role": "system", "content": "Ask for the tax number."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "What is your BSN?", "weight": 0},
        {"role": "user", "content": "111222333"},
        {"role": "assistant", "content": "Thanks."},
    ]
    result = redacted({"messages": turns})
    assert result["messages"][3] == {"role": "user", "content": "<NATIONAL_ID_1>"}
    assert [m for m in result["messages"] if m["role"] != "user"] == [turns[0], turns[2], turns[4]]


def test_every_text_of_a_row_is_looked_at() -> None:
    call = {
        "id": "call_1",
        "type": "function",
        "function": {
            "name": "send",
            "arguments": {"to": ["jane@x.example"], "n": 3, "card": 4111111111111111,
                          "a@b.example": True},
        },
    }  # fmt: skip
    row = {
        "messages": [
            {"role": "user", "content": "Send it", "name": "jane@x.example"},
            {"role": "assistant", "content": "", "reasoning_content": "To jane@x.example",
             "tool_calls": [call]},
            {"role": "tool", "content": "sent to jane@x.example", "tool_call_id": "call_1"},
            {"role": "assistant", "content": "Done"},
        ],
        "tools": [
            {"type": "function", "function": {"name": "send", "description": "b@x.example"}}
        ],
    }  # fmt: skip
    result = redacted(row)
    text = json.dumps(result)
    assert "@" not in text
    assert "4111" not in text
    arguments = result["messages"][1]["tool_calls"][0]["function"]["arguments"]
    assert arguments == {"to": ["<EMAIL_1>"], "n": 3, "card": "<CARD_1>", "<EMAIL_2>": True}
    assert result["messages"][2]["tool_call_id"] == "call_1"


def test_both_answers_of_a_preference_are_looked_at() -> None:
    row = {"prompt": "Who?", "completion": "a@x.example", "rejected": "b@x.example", "label": True}
    assert redacted(row) == {
        "prompt": "Who?",
        "completion": "<EMAIL_1>",
        "rejected": "<EMAIL_2>",
        "label": True,
    }


def test_placeholders_that_a_row_came_with_stay_another_value() -> None:
    row = {"prompt": "<EMAIL_4> and a@x.example", "completion": "ok"}
    assert redacted(row)["prompt"] == "<EMAIL_4> and <EMAIL_5>"


def test_a_clean_row_is_the_very_same() -> None:
    row = {"prompt": "What is 2 + 2?", "completion": "4"}
    assert redact_row(row, ALL).row is row


VALUES = st.sampled_from(
    ["a@x.example", "+49 30 901820", "4111 1111 1111 1111", "DE89370400440532013000", "BSN",
     "111222333", "078-05-1120", "203.0.113.7", "password=", "Tr0ub4dor&3x", "http://u:",
     "@h.example", "<EMAIL_1>", "<", ">", "<PHONE_1", " ", "-", ".", ":", "1", "call 0171 2345678",
     "eyJ", "-----BEGIN PRIVATE KEY-----"]
)  # fmt: skip


@pytest.mark.slow
@given(st.lists(VALUES | st.text(max_size=8), max_size=12), st.lists(VALUES, max_size=6))
@settings(max_examples=400)
def test_nothing_is_found_in_what_was_redacted(prompt: list[str], answer: list[str]) -> None:
    row = {"prompt": "".join(prompt), "completion": "".join(answer)}
    once = redact_row(row, ALL)
    again = redact_row(once.row, ALL)
    assert again.row is once.row
    assert not again.counts


def test_a_redacted_row_is_grouped_by_what_is_left_of_its_prompt() -> None:
    one, two = (
        step("Redact").judge(example(f"Who is {name}@x.example?", "A customer.")).verdict
        for name in ("jane", "john")
    )
    assert isinstance(one, Example)
    assert isinstance(two, Example)
    assert one.group == two.group
    assert one.content == two.content


def test_a_group_column_keeps_its_rows_together() -> None:
    before = example("Who is a@x.example?", "A customer.", group="customer 7")
    after = step("Redact").judge(before).verdict
    assert isinstance(after, Example)
    assert after.group == before.group


def test_rows_are_dropped_refused_or_only_counted() -> None:
    row = example("Mail jane@x.example or a@x.example", "+49 30 901820")
    assert step("Drop").judge(row).verdict == Removal(reason="PersonalData")
    reported = step("Report").judge(row).verdict
    assert isinstance(reported, Example)
    assert reported.row is row.row
    error = step("Refuse").judge(row).verdict
    assert isinstance(error, RowError)
    assert (error.file, error.line, error.reason) == ("rows.jsonl", 3, "PersonalData")
    assert "Email, Phone" in error.message
    assert "@" not in error.snippet + error.message
    for action in ("Drop", "Report", "Refuse"):
        assert step(action).judge(row).counts["Email"] == 2
    assert privacy_steps(Privacy(action="Off")) == ()


@pytest.mark.parametrize("action", ["Redact", "Drop", "Report"])
def test_what_was_done_is_told_in_numbers(action: str) -> None:
    screening = Screening([pickle.loads(pickle.dumps(step(action)))])
    for row in (
        example("Mail a@x.example, b@x.example", "ok"),
        example("Where to?", "c@x.example"),
        example("Clean", "yes"),
    ):
        screening.screen(row)
    (finding,) = screening.summarise()
    assert (finding.name, finding.num_flagged) == ("personalData", 2)
    assert finding.num_removed == (2 if action == "Drop" else 0)
    assert finding.counts == {"Email": 3}
    assert finding.files == {"rows.jsonl": 2}
    assert "2 of 3 rows: Email 3" in finding.message
    assert ("of 1 rows nothing but a placeholder is left" in finding.message) is (
        action == "Redact"
    )
    assert "@" not in finding.message


def test_that_nothing_was_found_is_told_as_well() -> None:
    screening = Screening([step("Redact")])
    screening.screen(example("Clean", "yes"))
    (finding,) = screening.summarise()
    assert "in 1 rows: none found" in finding.message


def test_quotations_of_bad_rows_hold_no_value_not_even_a_part() -> None:
    raw = {"a": "x" * 60 + " jane.doe@mail.example", "b": "eyJ" + "A1b" * 900}
    for row in (
        raw,
        {"t": "eyJhbGciOiJ1.eyJ" + "A1b" * 900},
        {"k": "z" * 1975 + " jane.doe@mail.example"},
    ):
        error = RowError(file="f", line=1, reason="R", message="m", snippet=make_snippet(row))
        snippet = make_shield(Privacy()).shield(error).snippet
        assert len(snippet) <= 80
        assert "jane" not in snippet
        assert "eyJhb" not in snippet
    long = RowError(file="f", line=1, reason="R", message="m", snippet=make_snippet("x" * 5000))
    assert len(long.snippet) == QUOTED_CHARACTERS
    assert len(make_shield(Privacy(action="Off")).shield(long).snippet) == 80


def test_text_that_is_no_row_is_redacted_alike() -> None:
    assert redact_text("column jane@x.example is missing", ALL) == "column <EMAIL_1> is missing"
