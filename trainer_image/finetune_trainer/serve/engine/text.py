"""Turns the tokens of an answer into its text, whole or piece by piece."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from finetune_trainer.model.encoding import ChatTokenizer

UNFINISHED = "\ufffd"
"""A tokenizer writes this for the bytes of a character that has not ended."""
_MAX_HELD = 8
"""Tokens that may wait for the end of a character; what ends later is no character."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TextReader:
    """Reads the answers to one prompt.

    Attributes:
        encoder: The model's encoder.
        prompt: Tokens of the prompt.
        is_chat: Whether the answer is a message: without reasoning, headers and space at its ends,
            as the evaluation reads it. A continued text stays as it is.
    """

    encoder: ChatTokenizer
    prompt: Sequence[int]
    is_chat: bool

    def read(self, ids: Sequence[int]) -> str:
        """Return the text of an answer that has ended; empty where its reasoning has no end."""
        if self.is_chat:
            return self.encoder.reader.read_generated(self.prompt, ids) or ""
        return self.encoder.reader.decode(ids, skip_special_tokens=True)

    def may_reason(self) -> bool:
        """Whether text without the mark of an answer may be something before the answer."""
        chat_format = self.encoder.chat_format
        return chat_format.leaves_header or self.encoder.reader.may_reason(self.prompt)


@dataclass(kw_only=True, slots=True)
class AnswerText:
    """The text of one answer while it is generated.

    Tokens are decoded once: the text so far is kept, and only the last tokens are decoded again,
    because a character or a space may depend on its neighbour.

    Attributes:
        reader: Reads its tokens.
        stops: Texts that end it.
        sent: What was given piece by piece.
    """

    reader: TextReader
    stops: Sequence[str] = ()
    sent: str = field(default="", init=False)
    _text: str = field(default="", init=False)
    """Text of the tokens behind the last mark, up to ``_end``."""
    _begin: int = field(default=0, init=False)
    _end: int = field(default=0, init=False)
    _num_seen: int = field(default=0, init=False)
    _is_answer: bool | None = field(default=None, init=False)

    def has_stop(self, ids: Sequence[int]) -> bool:
        """Whether one of the texts that end the answer is in it."""
        return bool(self.stops) and _find_stop(self._read_so_far(ids), self.stops) is not None

    def next_piece(self, ids: Sequence[int]) -> str:
        """Return what the tokens so far add for certain; often nothing."""
        text = self._read_so_far(ids)
        # A mark that follows may be composed with the last letter.
        text = text[:-1] if self.reader.is_chat else text
        held = max((_count_overlap(text, stop) for stop in self.stops), default=0)
        return self._send(text[: len(text) - held])

    def last_piece(self, ids: Sequence[int]) -> str:
        """Return what the ended answer adds."""
        return self._send(self.read(ids))

    def read(self, ids: Sequence[int]) -> str:
        """Return the whole text of the ended answer."""
        text = self.reader.read(ids)
        end = _find_stop(text, self.stops)
        return text if end is None else text[:end]

    def _read_so_far(self, ids: Sequence[int]) -> str:
        """Return the text that the answer begins with, however it goes on."""
        self._grow(ids)
        if not self.reader.is_chat:
            return self._text
        if not self._is_answer:
            mark = self.reader.encoder.chat_format.answer_after
            if self._is_answer is None:
                self._is_answer = not mark or not self.reader.may_reason()
            self._is_answer = self._is_answer or mark in self._text
        return self.reader.encoder.reader.clean(self._text) if self._is_answer else ""

    def _grow(self, ids: Sequence[int]) -> None:
        reader = self.reader.encoder.reader
        for size in range(self._num_seen + 1, len(ids) + 1):
            if self.reader.is_chat and reader.ends_with_mark(ids, size):
                self._text, self._begin, self._end, self._is_answer = "", size, size, True
        self._num_seen = len(ids)
        before = reader.decode(ids[self._begin : self._end], skip_special_tokens=True)
        text = reader.decode(ids[self._begin :], skip_special_tokens=True)
        is_late = len(ids) - self._end >= _MAX_HELD
        if len(text) > len(before) and (is_late or not text.endswith(UNFINISHED)):
            self._text += text[len(before) :]
            self._begin, self._end = self._end, len(ids)

    def _send(self, text: str) -> str:
        if not text.startswith(self.sent):
            return ""
        piece, self.sent = text[len(self.sent) :], text
        return piece


def _find_stop(text: str, stops: Sequence[str]) -> int | None:
    places = [at for stop in stops if (at := text.find(stop)) >= 0]
    return min(places) if places else None


def _count_overlap(text: str, stop: str) -> int:
    """Return how many last characters of a text may be the first ones of a stop."""
    sizes = range(min(len(text), len(stop) - 1), 0, -1)
    return next((size for size in sizes if text.endswith(stop[:size])), 0)
