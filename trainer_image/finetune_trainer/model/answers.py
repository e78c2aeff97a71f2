"""Reads the answer in the tokens that a model has said, or is to learn."""

from __future__ import annotations

import unicodedata
from bisect import bisect_left
from collections.abc import Sequence
from typing import TYPE_CHECKING

from finetune_trainer.model.chat_format import ChatFormat
from finetune_trainer.model.reasoning import begins_to_reason, is_closed_by_tag, may_reason

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class AnswerReader:
    """Reads answers of one tokenizer and one chat format.

    ``mark`` are the tokens of ``chat_format.answer_after`` alone; empty without one.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, chat_format: ChatFormat, mark: Sequence[int]
    ) -> None:
        self._tokenizer = tokenizer
        self._format = chat_format
        self._mark = list(mark)

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        """Return the text of tokens as it is, of control tokens unless these are skipped."""
        text: str = self._tokenizer.decode(
            list(ids), skip_special_tokens=skip_special_tokens, clean_up_tokenization_spaces=False
        )
        return text

    def read(self, ids: Sequence[int]) -> str:
        """Return the answer in generated or learned text, composed and stripped.

        Reasoning and channel headers are no part of it.
        """
        kept = list(ids)
        return self.clean(
            self.decode(kept[self._find_end_of_mark(kept) :], skip_special_tokens=True)
        )

    def clean(self, text: str) -> str:
        """Return the answer in the text behind the last mark, composed and stripped."""
        return compose(self._format.cut_to_answer(text)).strip()

    def ends_with_mark(self, ids: Sequence[int], end: int) -> bool:
        """Whether the tokens up to ``end`` end with the mark that an answer follows."""
        mark = self._mark
        return bool(mark) and end >= len(mark) and list(ids[end - len(mark) : end]) == mark

    def read_generated(self, prompt: Sequence[int], ids: Sequence[int]) -> str | None:
        """Return the answer in generated tokens; None where its reasoning has no end.

        ``prompt`` and ``ids`` are the input and output of generation.
        """
        return None if self._has_no_end(prompt, list(ids)) else self.read(ids)

    def may_reason(self, prompt: Sequence[int]) -> bool:
        """Whether a model may reason before it answers a prompt, given as tokens."""
        if not self._format.knows_reasoning:
            return False
        return may_reason(self._format, self.decode(prompt))

    def count_before(self, ids: Sequence[int]) -> int:
        """Return the number of tokens before an answer: reasoning, channel headers and the mark."""
        kept, mark = list(ids), self._format.answer_after
        end = self._find_end_of_mark(kept)
        rest = kept[end:]
        number = self.decode(rest).count(mark) if mark else 0
        if not number:
            return end
        # The tokenizer joins a mark with its surroundings.
        sizes = range(len(rest) + 1)
        place = bisect_left(sizes, number, key=lambda size: self.decode(rest[:size]).count(mark))
        return end + place

    def _has_no_end(self, prompt: Sequence[int], ids: list[int]) -> bool:
        mark = self._format.answer_after
        if not mark or self._find_end_of_mark(ids):
            return False
        said = self.decode(ids)
        if mark in said or not begins_to_reason(self._format, self.decode(prompt), said):
            return False
        return not self._ends_as_call(ids)

    def _ends_as_call(self, ids: Sequence[int]) -> bool:
        """Whether generation ended with a token that ends no answer.

        With a header as mark (gpt-oss) a tool call is a message of its own.
        """
        if is_closed_by_tag(self._format):
            return False
        end = next((token for token in ids if token in self._format.stop_ids), None)
        own = {self._format.end_id, self._tokenizer.eos_token_id, self._tokenizer.pad_token_id}
        return end is not None and end not in own

    def _find_end_of_mark(self, ids: list[int]) -> int:
        """Return where the last mark of an answer ends; 0 where its tokens are not there."""
        mark = self._mark
        if not mark:
            return 0
        starts = range(len(ids) - len(mark), -1, -1)
        at = next((start for start in starts if ids[start : start + len(mark)] == mark), None)
        return 0 if at is None else at + len(mark)


def compose(text: str) -> str:
    """Compose letters and their marks.

    Some tokenizers compose all text, so other text must be composed before a comparison.
    """
    return unicodedata.normalize("NFC", text)
