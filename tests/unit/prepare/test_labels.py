"""What is a label and what is a text."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_trainer.data.answers.label_text import MAX_LABELS
from finetune_trainer.data.report import LabelReport
from finetune_trainer.data.rows import Side
from finetune_trainer.evaluate.metrics.labels import looks_like_labels
from finetune_trainer.prepare.checks.labels import Labels, check_labels, count_labels
from finetune_trainer.prepare.rows.normal import normalise_row


def chat(answer: str | None, **more: Any) -> dict[str, Any]:
    asked = {"role": "user", "content": "Which?"}
    return {"prompt": [asked], "completion": [{"role": "assistant", "content": answer, **more}]}


def test_labels_are_counted_by_side_the_most_frequent_first() -> None:
    sides = {
        Side.TRAIN: [chat("late"), chat(" lost"), chat("late"), chat("late")],
        Side.VALIDATION: [],
        Side.TEST: [{"messages": [*chat("lost")["prompt"], *chat("lost")["completion"]]}],
    }
    counted = [
        (each.label, each.train, each.validation, each.test) for each in count_labels(sides).counts
    ]
    assert counted == [("late", 3, 0, 0), ("lost", 1, 0, 1)]


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [chat("a"), chat("b"), chat("c")],  # as many as rows
        [chat("late"), chat("late"), chat("x" * 65)],
        [chat("late"), chat("late"), chat("two\nlines")],
        [chat("late"), chat("late"), {"text": "late"}],
        [chat("late"), chat("late"), {**chat("late"), "rejected": chat("lost")["completion"]}],
        [chat("late"), chat("late"), chat(None, tool_calls=[{"function": {"name": "f"}}])],
        [{"prompt": "q", "completion": str(i % (MAX_LABELS + 1))} for i in range(1000)],
    ],
)
def test_answers_that_are_no_labels_are_not_counted(rows: list[dict[str, Any]]) -> None:
    assert count_labels({Side.TRAIN: rows}) == Labels()


@pytest.mark.parametrize(("number", "are_labels"), [(150, True), (200, True), (201, False)])
def test_prepare_and_evaluation_agree_on_how_many_labels_there_may_be(
    number: int, are_labels: bool
) -> None:
    answers = [f"l{i % number}" for i in range(4 * number)]
    rows = [{"prompt": "q", "completion": answer} for answer in answers]
    assert bool(count_labels({Side.TRAIN: rows}).counts) is are_labels
    assert looks_like_labels([(answer,) for answer in answers]) is are_labels


def talk(ending: str, *, is_split: bool) -> dict[str, Any]:
    said = [("user", "Where is it?"), ("assistant", "In Rome."), ("user", "Thanks!")]
    turns = [{"role": role, "content": text} for role, text in said]
    last = {"role": "assistant", "content": ending}
    return {"prompt": turns, "completion": [last]} if is_split else {"messages": [*turns, last]}


@pytest.mark.parametrize("is_split", [True, False])
@pytest.mark.parametrize(
    "endings",
    [
        ["You are welcome."],
        ["You are welcome!", "Happy to help!", "My pleasure.", "anytime"],
        ["Gern geschehen."],
        ["you're welcome", "Bye"],
    ],
)
def test_polite_endings_of_conversations_are_no_labels(endings: list[str], is_split: bool) -> None:
    rows = [talk(endings[n % len(endings)], is_split=is_split) for n in range(20)]
    found = count_labels({Side.TRAIN: rows})
    assert check_labels(found) == []
    assert found == Labels()


def test_a_sentence_that_is_the_only_answer_is_a_label() -> None:
    rows = [chat(answer) for answer in ("No problem.", "Very late.") * 10]
    assert len(count_labels({Side.TRAIN: rows}).counts) == 2


@pytest.mark.parametrize("label", ["delivery", "very late", "Positive."])
def test_a_label_at_the_end_of_a_conversation_is_one(label: str) -> None:
    rows = [talk(answer, is_split=False) for answer in (label, "refund") * 10]
    counted = {each.label for each in count_labels({Side.TRAIN: rows}).counts}
    assert counted == {label, "refund"}


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([("a", 40, 10), ("b", 40, 10)], {}),
        ([("a", 80, 20)], {"oneLabel": 100}),
        ([("fine", 760, 190), ("fraud", 40, 10)], {"labelImbalance": 950}),
        ([("a", 40, 10), ("b", 40, 10), ("c", 9, 1)], {"rareLabels": 1}),
        ([("a", 40, 10), ("b", 40, 10), ("c", 20, 0)], {"labelsWithoutTest": 1}),
        ([], {}),
    ],
)
def test_uneven_labels_are_told_and_only_rare_ones_named(
    labels: list[tuple[str, int, int]], expected: dict[str, int]
) -> None:
    reports = [LabelReport(label=name, train=train, test=test) for name, train, test in labels]
    findings = check_labels(Labels(counts=tuple(reports)))
    assert {finding.name: finding.num_flagged for finding in findings} == expected
    assert not any("fine" in finding.message for finding in findings)
    assert {each.name for each in findings if " (9)" in each.message} <= {"rareLabels"}


def test_labels_that_only_feedback_has_are_named() -> None:
    typed = {**chat("Billng"), "metadata": {"responseId": "chatcmpl-1"}}
    known = {**chat("account."), "metadata": {"responseId": "chatcmpl-2"}}
    rows = [chat(answer) for answer in ("account", "billing") * 20]
    told = {
        each.name: each for each in check_labels(count_labels({Side.TRAIN: [typed, known, *rows]}))
    }
    assert told["newLabels"].num_flagged == 1
    assert told["newLabels"].message.startswith("new in feedback: Billng (1);")
    assert "Billng (1)" in told["rareLabels"].message
    alone = [{**row, "metadata": {"responseId": "chatcmpl-3"}} for row in rows]
    assert not count_labels({Side.TRAIN: alone}).new


@pytest.mark.parametrize("more", [{}, {"reasoning_content": "why"}])
def test_one_answer_has_one_digest_in_every_shape(more: dict[str, Any]) -> None:
    split = chat("late", **more)
    whole = {"messages": [*split["prompt"], *split["completion"]]}
    assert normalise_row(split).answer_digest == normalise_row(whole).answer_digest
    other = normalise_row(chat("lost", **more)).answer_digest
    assert normalise_row(split).answer_digest != other


YES = ["Yes", "yes", "YES", "Yes", " yes ", "yes.", "Yes", "Y\u200bes"]


def test_spellings_of_a_label_are_counted_as_one_and_told_in_numbers() -> None:
    answers = [*YES * 9, *["no"] * 9, *["No"] * 9]
    found = count_labels({Side.TRAIN: map(chat, answers), Side.TEST: map(chat, YES)})
    counts = [(each.label, each.train, each.test) for each in found.counts]
    assert counts == [("Yes", 72, 8), ("No", 18, 0)]
    assert (found.num_spelled, sum(found.spellings.values())) == (2, 98)
    assert list(found.spellings.items())[:2] == [("Yes", 30), ("yes", 20)]
    told = {finding.name: finding for finding in check_labels(found)}
    assert told["labelImbalance"].message.startswith("80 of 98 rows have the same of 2 labels")
    spelled = told["labelSpellings"]
    assert spelled.message.startswith("2 of 2 labels are written in several ways (7 spellings)")
    assert spelled.counts['"YES"'] == 10
    assert "Yes" not in spelled.message


def test_one_label_in_several_spellings_is_still_one() -> None:
    told = check_labels(count_labels({Side.TRAIN: map(chat, YES)}))
    assert [finding.name for finding in told] == ["oneLabel", "labelSpellings"]


@pytest.mark.parametrize("pair", [("C", "C++"), ("A+", "A-"), ("!", "?"), ("1.5", "15")])
def test_labels_that_only_look_alike_stay_apart(pair: tuple[str, str]) -> None:
    found = count_labels({Side.TRAIN: map(chat, pair * 5)})
    assert [each.label for each in found.counts] == sorted(pair)
    assert not found.spellings


def test_labels_and_their_spellings_are_shown_as_the_shield_has_them() -> None:
    found = count_labels({Side.TRAIN: map(chat, ["Ann", "ann"] * 5)}, show=lambda _: "[NAME]")
    assert [each.label for each in found.counts] == ["[NAME]"]
    assert found.spellings == {"[NAME]": 10}


def test_the_counts_agree_with_the_labels_that_the_split_keeps() -> None:
    rows = [chat(answer) for answer in [*YES, "no", "No"]]
    answers = {normalise_row(row).answer_digest for row in rows}
    assert len(answers) == len(count_labels({Side.TRAIN: rows}).counts)
