"""Fields that look like content and are not read are told; ids, links and categories are not."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_api.v1alpha1.spec.dataset import Source
from finetune_trainer.prepare.reading.columns.unread import (
    Unread,
    check_identifiers,
    check_unread_fields,
    find_written_identifiers,
)

CONTEXT = "The parcel lies in Rome."
PAIR = {"prompt": "Where is the parcel?", "completion": "It is in Rome."}
ALPACA = {"instruction": "a b c", "input": "a b c", "output": "a b c"}
TURNS = [{"role": "user", "content": "a"}]


def find(fields: dict[str, Any], format_name: str, **settings: Any) -> list[str]:
    source = Source.model_validate({"uri": "file:///x", **settings})
    return Unread(source, format_name).find(fields)


@pytest.mark.parametrize(
    ("fields", "format_name", "settings", "expected"),
    [
        ({**PAIR, "context": CONTEXT}, "PromptCompletion", {}, ["context"]),
        ({**PAIR, "steps": ["a"], "facts": {"a": 1}}, "PromptCompletion", {}, ["steps", "facts"]),
        ({**PAIR, "system": CONTEXT, "history": TURNS}, "PromptCompletion", {}, []),
        ({**PAIR, "context": ""}, "PromptCompletion", {}, []),
        ({**PAIR, "category": "late", "score": 3, "ok": True}, "PromptCompletion", {}, []),
        (
            {**PAIR, "id": "a b c", "metadata": {"a": 1}, "x_url": CONTEXT},
            "PromptCompletion",
            {},
            [],
        ),
        ({**ALPACA, "text": CONTEXT}, "Alpaca", {}, ["text"]),
        ({"messages": TURNS, "tools": TURNS, "history": TURNS}, "Chat", {}, ["history"]),
        ({"text": CONTEXT, "title": "A long title"}, "Text", {}, ["title"]),
        ({"body": CONTEXT, "note": CONTEXT}, "Text", {"columns": {"text": "body"}}, ["note"]),
        (
            {"q": CONTEXT, "a": CONTEXT, "system": CONTEXT},
            "Csv",
            {"columns": {"prompt": "q", "completion": "a"}},
            ["system"],
        ),
        (
            {"a": CONTEXT, "b": CONTEXT, "answer": CONTEXT, "c": CONTEXT},
            "Csv",
            {"template": "{{ a }} {{ b }}", "columns": {"completion": "answer"}},
            ["c"],
        ),
        ({**PAIR, "a": CONTEXT}, "Csv", {"template": "{{ a }}"}, ["prompt"]),
        ({**PAIR, "a b": CONTEXT}, "Csv", {"template": '{{ row["a b"] }}'}, []),
        ({"prompt": "a b c", "chosen": "a b c", "rejected": "b c d"}, "Preference", {}, []),
        ({**PAIR, "label": True, "why": CONTEXT}, "Preference", {}, ["why"]),
    ],
)
def test_only_content_that_is_not_read_is_found(
    fields: dict[str, Any], format_name: str, settings: dict[str, Any], expected: list[str]
) -> None:
    assert find(fields, format_name, **settings) == expected


def test_unread_fields_are_told_once_in_numbers() -> None:
    (finding,) = check_unread_fields({"why": 3, "context": 200}, 200)
    assert finding.num_flagged == 200
    assert "not read: 'context' of 200 rows, 'why' of 3 rows;" in finding.message
    assert check_unread_fields({}, 200) == []
    (many,) = check_unread_fields({f"f{n}": 1 for n in range(12)}, 12)
    assert "and 2 more" in many.message


TICKETS = [
    {"ticket no": f"TCK-{1000 + 37 * n}", "opened": f"2024-05-01 10:{n:02}", "body": f"Where {n}?"}
    for n in range(40)
]


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ('{{ row["ticket no"] }}: {{ body }}', ("ticket no",)),
        ("{% if row.opened %}{{ row.opened }}{% endif %}: {{ body }}", ("opened",)),
        ("{{ opened | upper }}: {{ body }}", ("opened",)),
        ("{{ body }}", ()),
        ("{{ body", ()),
        (None, ()),
    ],
)
def test_identifiers_that_a_template_writes_are_found(
    template: str | None, expected: tuple[str, ...]
) -> None:
    source = Source.model_construct(uri="file:///x", template=template)
    assert find_written_identifiers(source, TICKETS) == expected


def test_identifiers_in_prompts_are_told_with_the_source() -> None:
    (finding,) = check_identifiers(["ticket"], 40, where="dataset.sources[1]")
    assert (finding.name, finding.num_flagged) == ("identifiersInPrompts", 40)
    assert "dataset.sources[1].template writes 'ticket'" in finding.message
    assert check_identifiers([], 40, where="dataset.sources[1]") == []
