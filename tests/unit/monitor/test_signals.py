"""Signals: each is a number from 0 to 1 that moves with what it is named for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_trainer.monitor.kinds import format_of, language_of
from finetune_trainer.monitor.signals import Answered, Signal, fit_signals, is_json, length
from finetune_trainer.monitor.vocabulary import count_words

COPY = ["a red coat of wool", "a blue coat of cotton", "warm gloves of wool", "a red hat"]


def row(prompt: str = "a red coat", answer: str | None = "Warm and red.") -> Answered:
    return Answered(prompt=prompt, answer=answer)


def named(rows: list[Answered]) -> dict[str, Signal]:
    return dict(fit_signals(rows))


TEXTS = [row(prompt, f"This is copy number {number}.") for number, prompt in enumerate(COPY)]
LABELS = [
    row(prompt, label) for prompt, label in zip(COPY, ["Good", "bad", "good.", "bad"], strict=True)
]

SIGNALS = [*fit_signals([row(answer="{}"), *TEXTS]).values(), *fit_signals(LABELS).values()]


@given(prompt=st.text(max_size=60), answer=st.none() | st.text(max_size=60))
def test_every_signal_of_any_text_is_on_the_scale_or_does_not_apply(
    prompt: str, answer: str | None
) -> None:
    for signal in SIGNALS:
        found = signal.measure(row(prompt, answer))
        assert found is None or 0 <= found <= 1, signal.name


def test_length_grows_with_the_text_and_ends_at_one() -> None:
    lengths = [length("a" * number) for number in (0, 1, 10, 100, 65_535, 200_000)]
    assert lengths == sorted(lengths)
    assert (lengths[0], lengths[-2], lengths[-1]) == (0.0, 1.0, 1.0)
    assert length("a" * 2047) - length("a" * 1023) == pytest.approx(1 / 16)


def test_refusals_and_json_are_hits() -> None:
    signals = named([row(answer='{"a": 1}'), *TEXTS])
    assert signals["Refusals"].measure(row(answer="I'm sorry, but I can't help with that.")) == 1.0
    assert signals["Refusals"].measure(row(answer="Of course.")) == 0.0
    assert signals["InvalidJson"].measure(row(answer='[{"a": 1}]')) == 0.0
    assert signals["InvalidJson"].measure(row(answer='{"a": 1')) == 1.0
    assert not is_json("3")


def test_json_is_not_watched_where_the_reference_has_none() -> None:
    assert "InvalidJson" not in named(TEXTS)


def test_labels_are_watched_where_answers_are_labels() -> None:
    signals = named(LABELS)
    assert {"Labels/good", "Labels/bad"} <= set(signals)
    assert signals["Labels/good"].measure(row(answer=" GOOD. ")) == 1.0
    assert signals["Labels/good"].measure(row(answer="bad")) == 0.0
    assert not any(name.startswith("Labels/") for name in named(TEXTS))


def test_answers_without_text_are_no_answers() -> None:
    signals = named(LABELS)
    for name in ("AnswerLength", "Refusals", "Labels/good"):
        assert signals[name].measure(row(answer=None)) is None
    prompts_alone = set(fit_signals([row(answer=None)]))
    assert prompts_alone == {
        "Errors", "ThumbsDown", "PromptLength", "Vocabulary", "Language/LATIN",
    }  # fmt: skip


def test_prompts_that_are_not_to_be_compared_are_not() -> None:
    unknown = Answered(prompt=None, answer="Good")
    assert set(fit_signals([unknown] * 2)) == {
        "Errors", "ThumbsDown", "AnswerLength", "Refusals", "Labels/good",
    }  # fmt: skip
    for name in ("PromptLength", "Vocabulary"):
        assert named(TEXTS)[name].measure(unknown) is None


def test_an_error_is_a_hit() -> None:
    errors = named(TEXTS)["Errors"]
    assert errors.measure(Answered(prompt="a", answer=None, is_error=True)) == 1.0
    assert errors.measure(row()) == 0.0


def test_words_that_the_reference_lacks_surprise() -> None:
    vocabulary = count_words(COPY)
    usual, mixed, new = (
        vocabulary.surprise(text)
        for text in ("a red coat", "a red wallet", "crypto wallet airdrop")
    )
    assert usual is not None
    assert mixed is not None
    assert usual < mixed < 1.0
    assert new == pytest.approx(1.0)
    assert vocabulary.surprise("?! ") is None


def test_another_language_surprises_as_new_words_do() -> None:
    vocabulary = count_words(COPY)
    assert vocabulary.surprise("ein roter Mantel aus Wolle") == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("Where is the parcel that I have ordered?", "English"),
        ("Wo ist das Paket, das ich bestellt habe?", "German"),
        ("Où est le colis que je vous ai commandé ?", "French"),
        ("¿Dónde está el paquete que le pedí para mi casa?", "Spanish"),
        ("Dov'è il pacco che ho ordinato per la casa?", "Italian"),
        ("Onde está o pacote que eu não recebi?", "Portuguese"),
        ("Waar is het pakket dat ik heb besteld?", "Dutch"),
        ("Gdzie jest paczka, że jej nie ma?", "Polish"),
        ("Var är paketet jag har beställt?", "Swedish"),
        ("Paket ne zaman gelir ve neden gelmedi?", "Turkish"),
        ("Где моя посылка?", "CYRILLIC"),
        ("我的包裹在哪里", "CJK"),
        ("red coat wool", "LATIN"),
        ("12 - 34!", None),
    ],
)
def test_languages_are_told_apart_by_frequent_words_and_letters(
    text: str, language: str | None
) -> None:
    assert language_of(text) == language


@pytest.mark.parametrize(
    ("text", "form"),
    [
        (' {"a": 1} ', "json"), ("Do:\n```\nx = 1\n```", "code"), ("| a | b |\n| - | - |", "table"),
        ("Two:\n- one\n- two", "list"), ("1. one\n2) two", "list"), ("- one", "line"),
        ("One.\nTwo.", "lines"), ("One.", "line"), ("", "line"),
    ],
)  # fmt: skip
def test_forms_of_answers_are_told_apart(text: str, form: str) -> None:
    assert format_of(text) == form


def test_shares_of_languages_and_forms_are_watched_where_the_reference_has_them() -> None:
    signals = named([row("where is the red coat", f"This is\ncopy {n}.") for n in range(4)])
    assert signals["Language/English"].measure(row("wo ist der rote Mantel und das Hemd")) == 0.0
    assert signals["Language/English"].measure(row("where is the hat")) == 1.0
    assert signals["Format/lines"].measure(row(answer="One line.")) == 0.0
    assert not any(name.startswith("Format/") for name in named(LABELS))


def test_only_the_signals_that_are_named_are_watched() -> None:
    assert set(fit_signals(LABELS, ["Labels", "Refusals"])) == {
        "Labels/good", "Labels/bad", "Refusals",
    }  # fmt: skip


def test_a_thumb_down_is_a_hit_and_no_thumb_is_none() -> None:
    thumbs = named(TEXTS)["ThumbsDown"]
    assert thumbs.measure(Answered(prompt="a", answer="b", is_down=True)) == 1.0
    assert thumbs.measure(row()) == 0.0
