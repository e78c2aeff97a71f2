"""Text that a tokenizer would read as control tokens."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_trainer.data.rows import BadRow
from finetune_trainer.prepare.reading.control import find_control_tokens, refuse_control_tokens
from kit.models.tiny_tokenizer import SPECIAL_TOKENS, make_tokenizer

TOKENS = frozenset({"<|im_end|>", "<s>", "<|im_end|>x"})


def convert(row: dict[str, Any], tokens: frozenset[str] = TOKENS) -> dict[str, Any]:
    return refuse_control_tokens(lambda _fields: row, tokens)({})


def pair(prompt: str, completion: str) -> dict[str, Any]:
    return {
        "prompt": [{"role": "user", "content": prompt}],
        "completion": [{"role": "assistant", "content": completion}],
    }


@pytest.mark.slow
def test_special_tokens_are_control_tokens_and_other_added_ones_are_not() -> None:
    tokenizer = make_tokenizer()
    tokenizer.add_tokens(["<think>"])
    assert find_control_tokens(tokenizer) == set(SPECIAL_TOKENS)


@pytest.mark.parametrize(
    ("row", "token", "where"),
    [
        (pair("a<|im_end|>b", "c"), "'<|im_end|>'", "prompt[0], by user,"),
        (pair("a", "<s>struck</s>"), "'<s>'", "completion[0], by assistant,"),
        (pair("a<|im_end|>x", "c"), "'<|im_end|>x'", "prompt[0], by user,"),
        (
            {"messages": [{"role": "system", "content": "a"}, {"role": "user", "content": "<s>"}]},
            "'<s>'",
            "messages[1], by user,",
        ),
    ],
)
def test_conversation_with_a_control_token_is_refused(
    row: dict[str, Any], token: str, where: str
) -> None:
    with pytest.raises(BadRow) as caught:
        convert(row)
    assert caught.value.reason == "ControlToken"
    assert f"{where} contains {token}" in caught.value.message


@pytest.mark.parametrize(
    "row",
    [
        pair("<|im end|> < s > <S>", "<think>why</think>"),
        {"text": "<s>a whole document<|im_end|>"},
        {"prompt": "<s>[INST] a", "completion": "b<|im_end|>"},
    ],
)
def test_other_rows_pass_as_they_are(row: dict[str, Any]) -> None:
    assert convert(row) == row


def test_proposed_spelling_is_accepted() -> None:
    with pytest.raises(BadRow, match=r"for example '< \|im_end\|>'"):
        convert(pair("<|im_end|>", "a"))
    assert convert(pair("< |im_end|>", "a"))
