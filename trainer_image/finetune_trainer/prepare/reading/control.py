"""Refuses conversations whose text holds a control token of the model.

A tokenizer would end the turn at ``<|im_end|>`` in a user's text. The row is reported and the user
decides. Plain text may hold control tokens.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from finetune_trainer.data.rows import BadRow

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Convert = Callable[[Mapping[str, Any]], dict[str, Any]]


def find_control_tokens(tokenizer: PreTrainedTokenizerBase) -> frozenset[str]:
    """Return the texts that the tokenizer turns into control tokens.

    Added tokens such as ``<think>`` are not special and not among them.
    """
    added = getattr(tokenizer, "added_tokens_decoder", {})
    special = {str(token) for token in added.values() if token.special}
    return frozenset(special.union(map(str, tokenizer.all_special_tokens)))


def refuse_control_tokens(convert: Convert, control_tokens: Collection[str]) -> Convert:
    """Return ``convert`` with a check for ``control_tokens`` in its conversations."""
    if not control_tokens:
        return convert
    # The longest first: of two that begin alike, the tokenizer takes the longer.
    ordered = sorted(control_tokens, key=lambda token: (-len(token), token))
    pattern = re.compile("|".join(map(re.escape, ordered)))

    def convert_checked(fields: Mapping[str, Any]) -> dict[str, Any]:
        row = convert(fields)
        for name, value in row.items():
            for number, entry in enumerate(value if isinstance(value, list) else ()):
                for text in _texts_of(entry):
                    found = pattern.search(text)
                    if found:
                        role = entry.get("role")
                        what = f"{name}[{number}], by {role}," if role else name
                        raise _refusal(found[0], what)
        return row

    return convert_checked


def _texts_of(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _texts_of(key)
            yield from _texts_of(item)
    elif isinstance(value, list):
        for item in value:
            yield from _texts_of(item)


def _refusal(token: str, where: str) -> BadRow:
    spaced = f"{token[0]} {token[1:]}"
    return BadRow(
        "ControlToken",
        f"{where} contains {token!r}, which this model reads as a control token and not as text; "
        f"write it otherwise (for example {spaced!r}), or leave the row out",
    )
