"""What each family learns from a row of each shape, against files that a person has read."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import pytest

from families.family import Family
from families.labels import encode_prompt, encode_row, golden_path, show_family, spans_of
from families.rows import Shape, answers_of, shapes_of
from families.table import FAMILIES
from finetune_trainer.data.rows import BadRow
from finetune_trainer.errors import TrainerError
from finetune_trainer.model.encoding import Encoded
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


@one_each(FAMILIES)
def test_labels_are_those_of_the_file_that_was_read(family: Family) -> None:
    shown = show_family(family, tokenizer_of(family.name))
    assert shown == golden_path(family).read_text(encoding="utf-8"), (
        "read the difference; if it is right: python -m families.labels"
    )


@one_each(FAMILIES)
def test_every_answer_is_learned_with_one_stop_token_and_nothing_else(family: Family) -> None:
    tokenizer = tokenizer_of(family.name)
    wrong = {}
    for shape, examples in encode_shapes(tokenizer, family):
        spans = [span for example in examples for span in spans_of(example)]
        found = [_read(tokenizer, family, span) for span in spans]
        expected = [answer.strip() for answer in answers_of(shape)]
        if "text" in shape.row and expected[0].endswith(found[0][0]):
            continue  # without a begin token, nothing predicts the first token
        if len(found) != len(expected) or not all(map(_is_answer, found, expected)):
            wrong[shape.title] = (found, expected)
    assert not wrong


@one_each(FAMILIES)
def test_the_evaluation_asks_with_the_tokens_that_training_saw(family: Family) -> None:
    tokenizer = tokenizer_of(family.name)
    wrong = {}
    for shape, examples in encode_shapes(tokenizer, family):
        if "text" in shape.row:
            continue
        prompt = encode_prompt(tokenizer, family, shape)
        seen = examples[-1].input_ids[: examples[-1].spans[-1][0]]
        if seen != prompt:
            wrong[shape.title] = (tokenizer.decode(prompt), tokenizer.decode(seen))
    assert not wrong


@one_each(FAMILIES)
def test_only_what_a_family_cannot_say_is_refused(family: Family) -> None:
    tokenizer = tokenizer_of(family.name)
    encoded = {shape.title for shape, _ in encode_shapes(tokenizer, family)}
    refused = [shape.title for shape in shapes_of(tokenizer) if shape.title not in encoded]
    assert refused == list(family.refuses)


def encode_shapes(tokenizer: Any, family: Family) -> Iterator[tuple[Shape, tuple[Encoded, ...]]]:
    for shape in shapes_of(tokenizer):
        try:
            yield shape, encode_row(tokenizer, family, shape)
        except (BadRow, TrainerError):
            continue


def _read(tokenizer: Any, family: Family, span: list[int]) -> tuple[str, bool]:
    """Return the answer in a learned span, and whether one stop token ends it and no other."""
    ends = family.stops + family.ends or (tokenizer.eos_token,)
    stops = {tokenizer.convert_tokens_to_ids(end) for end in ends}
    text = tokenizer.decode(span, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    only_the_last = [token in stops for token in span] == [False] * (len(span) - 1) + [True]
    return family.read_answer(text), only_the_last


def _is_answer(found: tuple[str, bool], expected: str) -> bool:
    text, stops = found
    is_tool_call = expected == "get_weather"
    return stops and (expected in text if is_tool_call else text == expected)
