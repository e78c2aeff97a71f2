"""Turns prepared rows into token ids and labels.

The loss mask is built here, by comparing renderings of the chat template (which token range does a
turn add?), so that it works for any template, also those that carry no ``{% generation %}`` marks.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune_trainer.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IGNORED = -100
"""Label of a token that does not count in the loss (torch's cross_entropy)."""

Message = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """One training example.

    Attributes:
        input_ids: Tokens, cut to the maximum length.
        labels: The same tokens where the loss counts, -100 elsewhere.
        num_cut: Tokens lost at the end.
    """

    input_ids: list[int]
    labels: list[int]
    num_cut: int


class Encoder:
    """Encodes rows with one tokenizer and one loss rule.

    Args:
        tokenizer: The base model's tokenizer.
        loss: ``Auto``, ``Completion``, ``Assistant`` or ``All`` as in ``spec.method.loss``.
        max_tokens: Longest example; the rest is cut from the end.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, loss: str, max_tokens: int) -> None:
        self._tokenizer = tokenizer
        self._loss = loss
        self._max_tokens = max_tokens

    def encode(self, row: dict[str, Any]) -> Example:
        """Encode one prepared row (``text``, ``prompt``/``completion`` or ``messages``)."""
        if "text" in row:
            ids, spans = self._encode_text(row["text"])
        elif "messages" in row:
            ids, spans = self._encode_turns(row["messages"])
        else:
            ids, spans = self._encode_pair(row["prompt"], row["completion"])
        if self._loss == "All":
            spans = [(0, len(ids))]
        labels = [IGNORED] * len(ids)
        for start, end in spans:
            labels[start:end] = ids[start:end]
        # Nothing after the last counting token can influence the loss.
        end = max((end for _, end in spans), default=len(ids))
        kept = min(end, self._max_tokens)
        return Example(input_ids=ids[:kept], labels=labels[:kept], num_cut=max(0, end - kept))

    def _encode_text(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        ids = self._with_end(self._tokenizer(text)["input_ids"])
        return ids, [(0, len(ids))]

    def _encode_pair(
        self, prompt: str | list[Message], completion: str | list[Message]
    ) -> tuple[list[int], list[tuple[int, int]]]:
        if isinstance(prompt, str) and isinstance(completion, str):
            before = self._tokenizer(prompt)["input_ids"]
            ids = self._with_end(self._tokenizer(prompt + completion)["input_ids"])
        else:
            assert isinstance(prompt, list)
            assert isinstance(completion, list)
            if any("weight" in message for message in completion):
                return self._encode_turns(prompt + completion, first=len(prompt))
            before = self._tokens_of(self.render(prompt, generate=True))
            ids = self._tokens_of(self.render(prompt + completion))
        start = _common_prefix(before, ids)
        return ids, [(start, self._end_of_turn(ids, start, len(ids)))]

    def _encode_turns(
        self, messages: list[Message], *, first: int = 0
    ) -> tuple[list[int], list[tuple[int, int]]]:
        """Encode a conversation; its answers from ``first`` on count, but those of weight 0."""
        ids = self._tokens_of(self.render(messages))
        turns = [
            i
            for i, message in enumerate(messages)
            if i >= first and message["role"] == "assistant" and "weight" not in message
        ]
        if self._loss == "Completion":
            turns = turns[-1:]
        spans = []
        for turn in turns:
            before = self._tokens_of(self.render(messages[:turn], generate=True))
            through = self._tokens_of(self.render(messages[: turn + 1]))
            start, end = _common_prefix(before, ids), _common_prefix(through, ids)
            # A template may drop earlier reasoning or add text only to the last turn; then the
            # renderings part early, and the turn counts from where they agree.
            if end > start:
                spans.append((start, self._end_of_turn(ids, start, end)))
        return ids, spans

    def render(self, messages: Sequence[Message], *, generate: bool = False) -> str:
        """Render messages with the chat template; ``generate`` opens the assistant's turn."""
        text = self._tokenizer.apply_chat_template(
            [{key: value for key, value in m.items() if key != "weight"} for m in messages],
            tokenize=False,
            add_generation_prompt=generate,
        )
        assert isinstance(text, str)
        return text

    def _tokens_of(self, rendered: str) -> list[int]:
        # The template wrote the special tokens already; adding them again doubles the first one.
        ids: list[int] = self._tokenizer(rendered, add_special_tokens=False)["input_ids"]
        return ids

    def _with_end(self, ids: list[int]) -> list[int]:
        end = self._tokenizer.eos_token_id
        return ids if ids and ids[-1] == end else [*ids, int(end)]

    def _end_of_turn(self, ids: list[int], start: int, end: int) -> int:
        # What a template writes after the end token (a newline, mostly) is not the model's to say.
        for position in range(end - 1, start - 1, -1):
            if ids[position] == self._tokenizer.eos_token_id:
                return position + 1
        return end


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Read one side of a prepared data set; an absent side is empty."""
    if not path.exists():
        return []
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def encode_rows(encoder: Encoder, rows: Iterable[dict[str, Any]], *, side: str) -> list[Example]:
    """Encode all rows of a side, leaving out those whose answer was cut away entirely.

    Raises:
        DataError: No row is left; the message says how long the rows are.
    """
    examples, needed = [], []
    for row in rows:
        example = encoder.encode(row)
        if any(label != IGNORED for label in example.labels[1:]):
            examples.append(example)
        needed.append(len(example.input_ids) + example.num_cut)
    if needed and not examples:
        needed.sort()
        raise DataError(
            "AllRowsTooLong",
            f"all {len(needed)} {side} rows are cut before their answer begins: they need "
            f"{needed[0]} to {needed[-1]} tokens (median {needed[len(needed) // 2]}); raise "
            f"hyperparameters.maxSequenceLength to {needed[-1]} or shorten the prompts",
        )
    return examples


def _common_prefix(left: Sequence[int], right: Sequence[int]) -> int:
    return sum(
        1
        for _ in itertools.takewhile(
            lambda pair: pair[0] == pair[1], zip(left, right, strict=False)
        )
    )
