"""What people said of answers becomes the rows that an objective learns from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from finetune_api.v1alpha1.spec.dataset import Source
from finetune_trainer.errors import UserError
from finetune_trainer.prepare.reading import people
from finetune_trainer.prepare.reading.traffic import CORRECTION, RATING, fetch_traffic
from finetune_trainer.traffic.places import feedback_key, tombstone_of_id, tombstone_of_user
from finetune_trainer.traffic.reading import find_exchanges
from finetune_trainer.traffic.rows import Feedback, write_feedback
from kit.serving.traffic import BEGIN, Recorded

CALL = {"id": "c", "type": "function", "function": {"name": "find", "arguments": '{"n": 1}'}}
TOOL = {"type": "function", "function": {"name": "find", "parameters": {"type": "object"}}}


@pytest.fixture
def recorded(tmp_path: Path) -> Recorded:
    return Recorded(folder=tmp_path / "captured")


def rows_of(recorded: Recorded, objective: str = "SFT", **source: Any) -> list[dict[str, Any]]:
    folder = recorded.folder / "raw"
    folder.mkdir(parents=True, exist_ok=True)
    made = Source.model_validate({"uri": "traffic://headlines", **source})
    file, _ = fetch_traffic(made, recorded.store, folder, objective=objective)
    assert file.path.stat().st_mode & 0o077 == 0
    return [json.loads(line) for line in file.path.read_text().splitlines()]


def answers_of(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    names = ("completion", "label", "chosen", "rejected", "kind")
    return [{name: row[name] for name in names if name in row} for row in rows]


def test_a_correction_is_a_row_a_pair_or_two_labels(recorded: Recorded) -> None:
    recorded.say(recorded.answer("Q", "Bad"), correction="Good")
    assert answers_of(rows_of(recorded)) == [{"completion": "Good", "kind": CORRECTION}]
    for objective in ("DPO", "ORPO"):
        pair = {"chosen": "Good", "rejected": "Bad", "kind": CORRECTION}
        assert answers_of(rows_of(recorded, objective)) == [pair]
    assert answers_of(rows_of(recorded, "KTO")) == [
        {"completion": "Good", "label": True, "kind": CORRECTION},
        {"completion": "Bad", "label": False, "kind": CORRECTION},
    ]


def test_ratings_are_labels_and_examples_only_where_asked(recorded: Recorded) -> None:
    recorded.say(recorded.answer("Q", "Up"), rating="up")
    recorded.say(recorded.answer("Q", "Down"), rating="down")
    up = {"completion": "Up", "kind": RATING}
    assert answers_of(rows_of(recorded, "KTO")) == [
        {**up, "label": True},
        {"completion": "Down", "label": False, "kind": RATING},
    ]
    assert rows_of(recorded) == []
    assert answers_of(rows_of(recorded, feedback=["Ratings"])) == [up]
    assert rows_of(recorded, "DPO") == []
    assert rows_of(recorded, "KTO", feedback=["Corrections"]) == []


def test_who_says_too_much_is_left_out_and_counted(
    recorded: Recorded, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(people, "ALWAYS_TAKEN", 1)
    for number in range(6):
        recorded.say(recorded.answer("Q", "Bad"), who="ab", correction=f"Mine {number}")
    recorded.say(recorded.answer("Q", "Bad"), who="cd", correction="Yours")
    first = recorded.answer("Q", "Up")
    recorded.say(first, who="ab", rating="down")
    for who in ("ef", "cd"):
        recorded.say(first, who=who, rating="up")
    folder = recorded.folder / "raw"
    folder.mkdir()
    source = Source(uri="traffic://headlines", max_percent_per_person=20)
    file, words = fetch_traffic(source, recorded.store, folder, objective="KTO")
    rows = [json.loads(line) for line in file.path.read_text().splitlines()]
    assert [row["completion"] for row in rows if row["label"]] == [
        "Mine 0", "Mine 1", "Yours", "Up"
    ]  # fmt: skip
    assert file.people is not None
    assert len(file.people.left_out) == 4
    assert file.people.message in words


def test_ratings_alone_make_no_pairs(recorded: Recorded) -> None:
    with pytest.raises(UserError) as caught:
        rows_of(recorded, "DPO", feedback=["Ratings"])
    assert caught.value.reason == "SettingNotApplicable"
    assert "traffic://headlines" in caught.value.message


def test_the_last_of_two_corrections_wins(recorded: Recorded) -> None:
    row = recorded.answer("Q", "Bad")
    recorded.say(row, correction="First", time=BEGIN.replace(minute=1))
    recorded.say(row, correction="Second", time=BEGIN.replace(minute=2))
    assert answers_of(rows_of(recorded)) == [{"completion": "Second", "kind": CORRECTION}]
    recorded.say(row, who="cd", correction="Third", time=BEGIN.replace(minute=3))
    assert answers_of(rows_of(recorded)) == [{"completion": "Third", "kind": CORRECTION}]
    recorded.say(row, who="cd", rating="down", time=BEGIN.replace(minute=4))
    assert answers_of(rows_of(recorded)) == [{"completion": "Second", "kind": CORRECTION}]


def test_the_majority_of_ratings_counts(recorded: Recorded) -> None:
    for number, votes in enumerate((["up", "up", "down"], ["up", "down"], ["down"])):
        row = recorded.answer("Q", f"A{number}")
        for who, rating in zip(("ab", "cd", "ef"), votes, strict=False):
            recorded.say(row, who=who, rating=rating)
    labels = {row["completion"]: row["label"] for row in rows_of(recorded, "KTO")}
    assert labels == {"A0": True, "A2": False}


def test_a_correction_that_changes_nothing_is_no_pair(recorded: Recorded) -> None:
    recorded.say(recorded.answer("Q", "Same"), correction="Same")
    assert rows_of(recorded, "DPO") == []
    assert [row["label"] for row in rows_of(recorded, "KTO")] == [True]


def test_white_space_at_the_end_alone_of_a_correction_is_not_learned(recorded: Recorded) -> None:
    about, same = recorded.answer("Q", "Bad"), recorded.answer("R", "Same\n")
    recorded.say(same, correction="Same")
    entry = Feedback(
        id=about.id,
        time=about.time,
        endpoint=about.endpoint,
        version=1,
        sha256=about.sha256,
        who="ab",
        correction=" Good\n",  # as earlier recorders stored it
    )
    recorded.store.write_bytes(feedback_key(entry), write_feedback(entry))
    assert [row["completion"] for row in rows_of(recorded)] == [" Good", "Same"]
    assert [row["chosen"] for row in rows_of(recorded, "DPO")] == [" Good"]


def test_an_answer_that_calls_tools_keeps_its_calls(recorded: Recorded) -> None:
    row = recorded.answer("Q", tool_calls=[CALL], tools=[TOOL], finish_reason="tool_calls")
    recorded.say(row, correction="I need no tool")
    (pair,) = rows_of(recorded, "DPO")
    assert pair["tools"] == [TOOL]
    assert pair["chosen"] == "I need no tool"
    (message,) = pair["rejected"]
    assert (message["role"], message["tool_calls"]) == ("assistant", [CALL])


def test_errors_and_cut_answers_are_no_examples(recorded: Recorded) -> None:
    failed = recorded.answer("Q", "Lost", is_error=True)
    recorded.say(failed, correction="Whole")
    recorded.say(recorded.answer("Q", "Cut", finish_reason="length"), rating="up")
    recorded.say(recorded.answer("Q", "Cut", finish_reason="length"), rating="down")
    assert answers_of(rows_of(recorded, "KTO")) == [
        {"completion": "Whole", "label": True, "kind": CORRECTION},
        {"completion": "Cut", "label": False, "kind": RATING},
    ]
    assert rows_of(recorded, "DPO") == []


def test_feedback_counts_though_the_clock_was_moved_back(recorded: Recorded) -> None:
    row = recorded.answer("Q", "Bad")
    recorded.say(row, correction="Good", time=BEGIN.replace(hour=1))
    assert answers_of(rows_of(recorded)) == [{"completion": "Good", "kind": CORRECTION}]
    assert rows_of(recorded, until="2026-11-30T02:00:00Z") == []


def test_only_segments_with_a_wanted_answer_are_read(
    recorded: Recorded, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(5):
        recorded.answer(f"Q{number}", "A")
    read: list[str] = []
    store = recorded.store
    kind = type(store)
    read_bytes = kind.read_bytes

    def count(self: Any, key: str) -> bytes:
        read.append(key)
        return read_bytes(self, key)

    monkeypatch.setattr(kind, "read_bytes", count)
    wanted = [recorded.answers[1], recorded.answers[3]]
    assert find_exchanges(store, {row.id for row in wanted}) == wanted
    assert len(read) == 2
    assert find_exchanges(store, set()) == []


def test_a_deletion_while_segments_are_read_counts(
    recorded: Recorded, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the tombstone is there yet: the segments still hold the answers."""
    for number in range(3):
        row = recorded.answer(f"Q{number}", "A", user=f"u{number}")
        recorded.say(row, correction="B")
    first, second, third = recorded.answers
    assert second.user is not None
    tombstone = tombstone_of_user(second.user, second.time)
    kind = type(recorded.store)
    read_bytes = kind.read_bytes

    def delete_meanwhile(self: Any, key: str) -> bytes:
        if key.startswith("segments/"):
            self.write_bytes(tombstone_of_id(first.id), b"{}")
            self.write_bytes(tombstone, b"")
        return read_bytes(self, key)

    monkeypatch.setattr(kind, "read_bytes", delete_meanwhile)
    assert [row["responseId"] for row in rows_of(recorded)] == [third.id]
