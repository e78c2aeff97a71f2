"""Preferences are read in every shape they come in, and what is none is refused with its row."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from finetune_api.v1alpha1.dataset import Source
from finetune_trainer.data.rows import BadRow
from finetune_trainer.errors import DataError, UserError
from finetune_trainer.prepare.reading.formats import build_convert
from finetune_trainer.prepare.reading.recognition import recognise_format
from finetune_trainer.prepare.refusals import require_preferences

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
