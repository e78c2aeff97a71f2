"""What each family learns from a row of each shape, against files that a person has read."""

from __future__ import annotations

import functools
from typing import Any

import pytest

from families.family import Family
from families.labels import encode_prompt, encode_row, spans_of
from families.rows import answers_of, shapes_of
from families.table import FAMILIES
from finetune_trainer.data.rows import BadRow
from finetune_trainer.errors import TrainerError
from support.real_tokenizers import TokenizerUnavailableError


def one_each(families: tuple[Family, ...]) -> Any:
    return pytest.mark.parametrize(
        "family", [pytest.param(family, id=family.name) for family in families]
    )


@functools.lru_cache(maxsize=1)
def tokenizer_of(name: str) -> Any:
    family = next(family for family in FAMILIES if family.name == name)
    try:
        return family.tokenizer()
    except TokenizerUnavailableError as error:
        pytest.skip(str(error))


@pytest.mark.xfail(reason="templates are not checked yet", strict=False)
@one_each(FAMILIES)
def test_every_answer_is_learned_with_one_stop_token_and_nothing_else(family: Family) -> None:
    tokenizer = tokenizer_of(family.name)
    wrong = {}
    for shape in shapes_of(tokenizer):
        try:
            example = encode_row(tokenizer, family, shape)
        except (BadRow, TrainerError):
            continue
        found = [_read(tokenizer, family, span) for span in spans_of(example)]
        expected = [answer.strip() for answer in answers_of(shape)]
        if "text" in shape.row and expected[0].endswith(found[0][0]):
            continue  # without a begin token, nothing predicts the first token
        if len(found) != len(expected) or not all(map(_is_answer, found, expected)):
            wrong[shape.title] = (found, expected)
    assert not wrong


@pytest.mark.xfail(reason="templates are not checked yet", strict=False)
@one_each(FAMILIES)
def test_the_evaluation_asks_with_the_tokens_that_training_saw(family: Family) -> None:
    tokenizer = tokenizer_of(family.name)
    wrong = {}
    for shape in shapes_of(tokenizer):
        if "text" in shape.row:
            continue
        try:
            example = encode_row(tokenizer, family, shape)
        except (BadRow, TrainerError):
            continue
        prompt = encode_prompt(tokenizer, family, shape)
        size = len(example.input_ids) - len(spans_of(example)[-1])
        if example.input_ids[:size] != prompt:
            seen = tokenizer.decode(example.input_ids[:size])
            wrong[shape.title] = (tokenizer.decode(prompt), seen)
    assert not wrong


def _read(tokenizer: Any, family: Family, span: list[int]) -> tuple[str, bool]:
    """Return what a learned span says, and whether it ends in a stop token and holds no other."""
    ends = family.stops + family.ends or (tokenizer.eos_token,)
    stops = {tokenizer.convert_tokens_to_ids(end) for end in ends}
    text = tokenizer.decode(span, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    only_the_last = [token in stops for token in span] == [False] * (len(span) - 1) + [True]
    return text.strip().removeprefix(family.header).strip(), only_the_last


def _is_answer(found: tuple[str, bool], expected: str) -> bool:
    text, stops = found
    is_tool_call = expected == "get_weather"
    return stops and (expected in text if is_tool_call else text == expected)
