"""Turns the tokens of an answer into its text, whole or piece by piece."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from finetune_trainer.model.encoding import ChatTokenizer

_UNFINISHED = "\ufffd"
"""A tokenizer writes this for the bytes of a character that has not ended."""


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

    def read_beginning(self, ids: Sequence[int]) -> str:
        """Return the text that an answer begins with, however it goes on."""
        if not self.is_chat:
            text = self.encoder.reader.decode(ids, skip_special_tokens=True)
        elif self._is_before_answer(ids):
            return ""
        else:
            text = self.encoder.reader.read(ids)
        # A mark that follows may be composed with the last letter.
        return text.rstrip(_UNFINISHED)[:-1] if self.is_chat else text.rstrip(_UNFINISHED)

    def _is_before_answer(self, ids: Sequence[int]) -> bool:
        mark, reader = self.encoder.chat_format.answer_after, self.encoder.reader
        if not mark or mark in reader.decode(ids):
            return False
        return self.encoder.chat_format.leaves_header or reader.may_reason(self.prompt)


@dataclass(kw_only=True, slots=True)
class AnswerText:
    """The text of one answer while it is generated.

    Attributes:
        reader: Reads its tokens.
        stops: Texts that end it.
        sent: What was given piece by piece.
    """

    reader: TextReader
    stops: Sequence[str] = ()
    sent: str = field(default="", init=False)

    def has_stop(self, ids: Sequence[int]) -> bool:
        """Whether one of the texts that end the answer is in it."""
        return bool(self.stops) and _find_stop(self.reader.read(ids), self.stops) is not None

    def next_piece(self, ids: Sequence[int]) -> str:
        """Return what the tokens so far add for certain; often nothing."""
        text = self.reader.read_beginning(ids)
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
