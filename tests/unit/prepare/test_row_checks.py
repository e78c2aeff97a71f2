"""What is learned must be text that a model may repeat; prompts may be as users send them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pytest

from finetune_trainer.data.rows import Example, RowError, make_example
from finetune_trainer.errors import DataError
from finetune_trainer.prepare.checks.checks import Finding
from finetune_trainer.prepare.checks.row_checks import TEXT_CHECKS
from finetune_trainer.prepare.checks.screening import Screening


def example(row: dict[str, Any], line: int = 1) -> Example:
    return make_example(row, file="rows.jsonl", line=line, side=None, group_value=None)


def as_pair(prompt: str, answer: str) -> dict[str, Any]:
    return {"prompt": prompt, "completion": answer}


def as_chat(prompt: str, answer: str) -> dict[str, Any]:
    turns = [("user", "Hi"), ("assistant", answer), ("user", prompt), ("assistant", "Good bye")]
    return {"messages": [{"role": role, "content": text} for role, text in turns]}


def screen(row: dict[str, Any]) -> Example | RowError | None:
    return Screening(TEXT_CHECKS).screen(example(row))


def summarise(rows: Iterable[dict[str, Any]]) -> dict[str, Finding]:
    screening = Screening(TEXT_CHECKS)
    for line, row in enumerate(rows, start=1):
        screening.screen(example(row, line))
    return {finding.name: finding for finding in screening.summarise()}


def read_wrongly(text: str) -> str:
    """Return text in UTF-8 as CP1252 shows it."""
    return text.encode().decode("cp1252")


BROKEN = {
    "the replacement character": "caf\ufffd",
    "an accent": read_wrongly("caf\u00e9"),
    "an umlaut": read_wrongly("gr\u00f6\u00dfer"),
    "a sign": read_wrongly("\u00a35, 20 \u00b0C"),
    "a quote": read_wrongly("it\u2019s"),
    "a dash": read_wrongly("yes \u2013 no"),
    "quotes of CP1252": "\x93yes\x94",
    "a byte-order mark": read_wrongly("\ufeffyes"),
    "Cyrillic": read_wrongly("\u043f\u0440\u0438\u0432\u0435\u0442"),
}


@pytest.mark.parametrize("make", [as_pair, as_chat])
@pytest.mark.parametrize("text", BROKEN.values(), ids=BROKEN)
def test_broken_encoding_is_refused_in_an_answer_and_told_in_a_prompt(make: Any, text: str) -> None:
    refused = screen(make("Where?", text))
    assert isinstance(refused, RowError)
    assert (refused.reason, refused.line) == ("BrokenEncoding", 1)
    assert text not in refused.message
    assert isinstance(screen(make(text, "There.")), Example)
    assert summarise([make(text, "There.")])["brokenEncodingInPrompts"].num_flagged == 1


@pytest.mark.parametrize("text", ["a\x00b", "\x1b[31mred", "a\x7f", "\x08"])
def test_control_characters_are_refused_in_an_answer_and_told_in_a_prompt(text: str) -> None:
    refused = screen(as_pair("Where?", text))
    assert isinstance(refused, RowError)
    assert refused.reason == "ControlCharacter"
    assert isinstance(screen(as_pair(text, "There.")), Example)
    assert summarise([as_pair(text, "There.")])["controlCharacterInPrompts"].num_flagged == 1


GOOD = [
    "Zoë naïve ÀÉÎÕÜ ß œuvre façade",
    "NÃO, AMANHÃ! «AMANHû “AMANHÔ Ãgua",
    "\u00a35 and 20 °C ± 1",
    "«Â» PÂTE",
    "привет, мир",
    "Tiếng Việt: Ắ Ẵ Â Ê Ô",
    "def f():\n\treturn 1\r\n\x0c# next page\n",
    "\u4f60\u597d\uff0c\u4e16\u754c\u3002",
    "مرحبا \u200f بالعالم",
    "👩‍👩‍👧 family",
    "-1",
    "+",
    "a\u200bb\ufeffc",
    "Ð and Ñ are letters: Ñandú, Ðuro",
    "€ 5 â",
]


@pytest.mark.parametrize("text", GOOD)
def test_good_text_of_any_language_passes(text: str) -> None:
    row = as_pair("Say: " + text, text)
    assert isinstance(screen(row), Example)
    assert not {"brokenEncodingInPrompts", "controlCharacterInPrompts"} & set(summarise([row]))


@pytest.mark.parametrize("text", ["\u200b", "\ufeff \u2060", "\u00ad"])
def test_an_answer_without_a_visible_character_is_empty(text: str) -> None:
    refused = screen(as_pair("Where?", text))
    assert isinstance(refused, RowError)
    assert refused.reason == "EmptyAnswer"


def test_an_answer_that_is_not_learned_may_be_broken() -> None:
    row = as_chat("Where?", read_wrongly("caf\u00e9"))
    row["messages"][1]["weight"] = 0
    assert isinstance(screen(row), Example)


def test_plain_text_and_the_worse_answer_are_learned_too() -> None:
    pair = {"prompt": "q", "completion": "fine", "rejected": read_wrongly("caf\u00e9")}
    for row in ({"text": read_wrongly("caf\u00e9")}, pair):
        assert isinstance(screen(row), RowError)


def rows_with(answers: Sequence[str]) -> list[dict[str, Any]]:
    return [as_pair(f"Question number {n}?", answer) for n, answer in enumerate(answers)]


def test_placeholders_are_told_unless_they_are_labels() -> None:
    found = summarise(rows_with(["N/A", "...", "TODO", *["yes"] * 30]))["placeholderAnswers"]
    assert found.num_flagged == 3
    assert "placeholderAnswers" not in summarise(rows_with(["none", "some", "all"] * 10))


def test_answers_that_repeat_the_prompt_are_told_and_refused_where_nearly_all_do() -> None:
    long = "Please tell me where the nearest station is"
    echoes = [as_pair(f"what is {n}", f"What  is {n}") for n in range(19)]
    rows = [*echoes, as_pair(long, f"{long}: over there"), *rows_with(["yes"] * 20)]
    found = summarise(rows)["answersRepeatPrompts"]
    assert (found.num_flagged, found.num_removed) == (20, 0)
    with pytest.raises(DataError, match="20 of 21 rows answer with their own prompt") as caught:
        summarise([*rows[:20], as_pair("a", "b")])
    assert caught.value.reason == "AnswersRepeatPrompts"
    assert "answersRepeatPrompts" in summarise(echoes[:5])  # too few to be sure


def test_a_short_prompt_within_an_answer_repeats_nothing() -> None:
    assert "answersRepeatPrompts" not in summarise([as_pair("cat", "category"), as_pair("1", "10")])


def test_scripts_are_told_where_they_are_mixed() -> None:
    rows = rows_with([*["yes"] * 5, *["нет"] * 2, "はい", "12", "Ja, 是"])
    found = summarise(rows)["mixedScripts"]
    assert found.message == (
        "answers are in several scripts: 6 rows Latin, 2 Cyrillic, 1 Chinese or Japanese"
    )
    assert "mixedScripts" not in summarise(rows_with(["yes", "naïve", "12"]))
