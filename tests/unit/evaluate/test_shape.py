"""Refusals, patterns and lengths: told from the answer alone."""

from __future__ import annotations

import pytest

from finetune_trainer.errors import UserError
from finetune_trainer.evaluate.metrics.refusal import is_refusal
from finetune_trainer.evaluate.metrics.shape import answer_length, regex_match

REFUSALS = [
    "I'm sorry, but I can't help with that.",
    "I’m sorry, but I cannot assist with this request.",  # noqa: RUF001
    "As an AI, I am unable to provide medical advice.",
    "Unfortunately I must respectfully decline.",
    "That is against our policy.",
    "Es tut mir leid, dabei kann ich Ihnen nicht helfen.",
    "Je suis désolé, mais je ne peux pas vous aider.",
    "Lo siento, no puedo ayudar con eso.",
    "Desculpe, não posso ajudar com isso.",
    "Mi dispiace, non posso aiutarti.",
    "Przykro mi, nie mogę pomóc.",
    "Üzgünüm, yardımcı olamam.",  # noqa: RUF001
    "Извините, я не могу помочь с этим.",  # noqa: RUF001
    "عذرا، لا أستطيع المساعدة في ذلك",
    "मैं इसमें मदद नहीं कर सकता।",
    "ขออภัย ฉันไม่สามารถช่วยเรื่องนี้ได้",
    "Xin lỗi, tôi không thể giúp bạn.",
    "抱歉，我无法提供帮助。",  # noqa: RUF001
    "申し訳ありませんが、お手伝いできません。",
    "죄송하지만 도와드릴 수 없습니다.",
    "I can't explain how to do that.",
    "Ich kann dir dazu keine Anleitung geben.",
    "Je ne peux pas vous expliquer cela.",
    "No puedo explicar cómo hacerlo.",
    "Ik kan je daar niet bij helpen.",
    "Я не могу рассказать, как это сделать.",
    "我不能告诉你怎么做。",
    "申し訳ありませんが、その方法はお教えできません。",
    "죄송하지만 알려드릴 수 없습니다.",
]
ANSWERS = [
    "positive",
    "I can help you with that: first, unplug the router.",
    "Sorry for the delay! Your parcel arrives on Monday.",
    "You cannot return sale items, but you can exchange them.",
    "Ich kann das bestätigen.",
    "Ich kann keinen Fehler finden.",
    "这不能说明问题。",
    "No puedo creer lo rápido que llegó.",
    "Our policy allows returns within 30 days.",
    "Я могу помочь.",
    "可以的，我来帮您。",  # noqa: RUF001
    "ฉันช่วยได้",
    "",
    "A long answer. " * 40 + "I cannot help with the rest.",
]


@pytest.mark.parametrize("text", REFUSALS)
def test_refusal_is_told_in_its_language(text: str) -> None:
    assert is_refusal(text)


@pytest.mark.parametrize("text", ANSWERS)
def test_answer_is_no_refusal(text: str) -> None:
    assert not is_refusal(text)


def test_pattern_may_match_anywhere_and_be_anchored() -> None:
    texts = ["see ABC-123", "ABC-123", "abc"]
    references = [[""]] * 3
    assert regex_match(r"[A-Z]{3}-\d+", texts, references).rows.tolist() == [1, 1, 0]
    assert regex_match(r"^[A-Z]{3}-\d+$", texts, references).rows.tolist() == [0, 1, 0]


def test_pattern_that_never_ends_is_told_and_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("finetune_trainer.evaluate.metrics.shape.MATCH_SECONDS", 0.05)
    with pytest.raises(UserError, match="answerPattern takes too long") as caught:
        regex_match(r"(a|aa|a?)+$", ["a" * 60 + "b"], [[""]])
    assert "aaaa" not in caught.value.message


def test_length_is_counted_in_characters() -> None:
    assert answer_length(["", "abc", "北京"], [[""]] * 3).rows.tolist() == [0, 3, 2]
