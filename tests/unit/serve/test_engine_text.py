"""The text of an answer, whole and piece by piece."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from finetune_trainer.model.chat_format import decide_format
from finetune_trainer.model.encoding import ChatTokenizer
from finetune_trainer.serve.engine.text import AnswerText, TextReader
from kit.models.tiny_tokenizer import make_tokenizer

pytestmark = pytest.mark.slow

REASONS = (
    "{% for m in messages %}{% if m.role == 'assistant' %}"
    "{{ '<|im_start|>assistant\n<think>\n\n</think>\n\n' + m.content + '<|im_end|>\n' }}{% else %}"
    "{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def make_text(
    *, stops: Sequence[str] = (), is_chat: bool = True, has_reasoning: bool = False
) -> AnswerText:
    tokenizer = make_tokenizer(**({"chat_template": REASONS} if has_reasoning else {}))
    chat_format = decide_format(tokenizer, has_reasoning=has_reasoning)
    encoder = ChatTokenizer(tokenizer, chat_format, max_tokens=10_000)
    prompt = encoder.encode_prompt([{"role": "user", "content": "?"}])
    return AnswerText(
        reader=TextReader(encoder=encoder, prompt=prompt, is_chat=is_chat), stops=stops
    )


def tokens_of(text: AnswerText, words: str) -> list[int]:
    ids: list[int] = text.reader.encoder._tokenizer(words, add_special_tokens=False)["input_ids"]
    return ids


def stream(text: AnswerText, ids: Sequence[int]) -> list[str]:
    pieces = [text.next_piece(ids[:size]) for size in range(1, len(ids))]
    return [piece for piece in [*pieces, text.last_piece(ids)] if piece]


@pytest.mark.parametrize(
    "words", ["positive", "  spaced out  ", "Größe 😀 ok", "e\u0301te\u0301", "a\n\nb\n"]
)
def test_joined_pieces_are_the_whole_answer(words: str) -> None:
    text = make_text()
    ids = tokens_of(text, words)
    pieces = stream(text, ids)
    assert "".join(pieces) == text.read(ids)
    assert not any("\ufffd" in piece for piece in pieces)


def test_pieces_come_while_the_answer_grows() -> None:
    text = make_text()
    assert stream(text, tokens_of(text, "good"))[:2] == ["g", "o"]


def test_a_continued_text_keeps_its_spaces() -> None:
    text = make_text(is_chat=False)
    assert text.read(tokens_of(text, " then ")) == " then "


def test_a_stop_ends_the_text_and_no_piece_holds_its_beginning() -> None:
    text = make_text(stops=["END"], is_chat=False)
    ids = tokens_of(text, "one EN two END")
    sizes = [size for size in range(1, len(ids) + 1) if text.has_stop(ids[:size])]
    assert sizes == [len(ids)]
    assert "".join(stream(make_text(stops=["END"], is_chat=False), ids)) == "one EN two "


@pytest.mark.parametrize("has_reasoning", [False, True])
def test_a_long_stream_decodes_each_token_a_few_times(
    monkeypatch: pytest.MonkeyPatch, has_reasoning: bool
) -> None:
    text = make_text(stops=["END"], has_reasoning=has_reasoning)
    words = "<think>hm</think>" * has_reasoning + "Größe 😀 and so on. " * 60
    ids, decoded = tokens_of(text, words), []
    reader = text.reader.encoder.reader
    decode = reader.decode

    def count(some: Sequence[int], **settings: bool) -> str:
        decoded.append(len(some))
        return decode(some, **settings)

    with monkeypatch.context() as patched:
        patched.setattr(reader, "decode", count)
        pieces = []
        for size in range(1, len(ids)):
            assert not text.has_stop(ids[:size])
            pieces.append(text.next_piece(ids[:size]))
    assert sum(decoded) < 30 * len(ids)
    assert "".join(pieces) + text.last_piece(ids) == text.read(ids)


def test_reasoning_is_no_piece_of_the_answer() -> None:
    text = make_text(has_reasoning=True)
    ids = tokens_of(text, "<think>hm, well</think>\n\nyes!")
    assert "".join(stream(text, ids)) == "yes!"


def test_reasoning_without_an_end_gives_no_answer() -> None:
    text = make_text(has_reasoning=True)
    ids = tokens_of(text, "<think>hm, well")
    assert stream(text, ids) == []
    assert text.read(ids) == ""
