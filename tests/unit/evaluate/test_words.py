"""Words in any script, in the form that answers are compared in."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_trainer.evaluate.metrics.words import contains_words, split_words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("The cat's 3 mats, it_self!", ["the", "cat", "s", "3", "mats", "it", "self"]),
        ("Привет, мир", ["привет", "мир"]),
        ("Straße STRASSE", ["strasse", "strasse"]),
        ("naïve nai\u0308ve", ["naïve", "naïve"]),
        ("हिन्दी में लिखो", ["हिन्दी", "में", "लिखो"]),
        ("العَرَبِيَّة، لغة", ["العَرَبِيَّة", "لغة"]),
        ("می\u200cخواهم", ["میخواهم"]),  # noqa: RUF001
        ("שָׁלוֹם עולם", ["שָׁלוֹם", "עולם"]),
        ("北京2008年。", ["北", "京", "2008", "年"]),
        ("カタカナ ｶﾅ", ["カ", "タ", "カ", "ナ", "カ", "ナ"]),
        ("ที่นี่", ["ที่", "นี่"]),
        ("한국어 텍스트", ["한국어", "텍스트"]),
        ("１２３ ½", ["123", "1", "2"]),  # noqa: RUF001
        ("ok 👍🏽 !?", ["ok"]),
        ("\u0301 \u200b", []),
    ],
)
def test_words_of_a_text(text: str, words: list[str]) -> None:
    assert split_words(text) == words


@given(st.text())
def test_words_hold_together_whatever_the_text(text: str) -> None:
    words = split_words(text)
    assert all(words)
    assert split_words(" ".join(words)) == words


@pytest.mark.parametrize(
    ("part", "is_in"),
    [(["b", "c"], True), (["a", "c"], False), (["d"], True), ([], False), (["c", "d", "e"], False)],
)
def test_part_stands_in_one_piece(part: list[str], is_in: bool) -> None:
    assert contains_words(["a", "b", "c", "d"], part) is is_in


def test_an_image_written_as_one_word_takes_time_in_its_length() -> None:
    import time

    def seconds(size: int) -> float:
        text = "iVBORw0KGgo" * (size // 11)
        begun = time.process_time()
        assert len(split_words(text)) == 1
        return time.process_time() - begun

    seconds(1000)  # whatever is kept for later is kept now
    # Sixteen times as long: so many times the time, and not its square.
    assert seconds(1_600_000) < 60 * seconds(100_000)


@given(st.text(st.characters(codec="ascii")))
def test_plain_texts_have_the_words_that_they_have_beside_others(text: str) -> None:
    assert [*split_words(text), "é"] == split_words(f"{text} é")
