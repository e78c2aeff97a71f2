"""What each family learns from a row of each shape, against files that a person has read."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any

import pytest

from finetune_api.messages.prompt_template import find_chat_template_error
from finetune_trainer.data.rows import BadRow
from finetune_trainer.errors import TrainerError
from finetune_trainer.model.encoding import TokenizedExample
from kit.families.family import Family
from kit.families.labels import encode_prompt, encode_row, golden_path, show_family, spans_of
from kit.families.rows import Shape, answers_of, shapes_of
from kit.families.table import FAMILIES
from kit.models.real_tokenizers import TokenizerUnavailableError


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """A family with its tokenizer, and the rows that it takes, encoded."""

    family: Family
    tokenizer: Any
    encoded: list[tuple[Shape, tuple[TokenizedExample, ...]]]


# Of module scope, so that the tests of a family follow each other and share its tokenizer.
@pytest.fixture(scope="module", params=FAMILIES, ids=[family.name for family in FAMILIES])
def case(request: pytest.FixtureRequest) -> Case:
    family: Family = request.param
    try:
        tokenizer = family.tokenizer()
    except TokenizerUnavailableError as error:
        pytest.skip(str(error))
    encoded = []
    for shape in shapes_of(tokenizer):
        with contextlib.suppress(BadRow, TrainerError):
            encoded.append((shape, encode_row(tokenizer, family, shape)))
    return Case(family=family, tokenizer=tokenizer, encoded=encoded)


def test_labels_are_those_of_the_file_that_was_read(case: Case) -> None:
    shown = show_family(case.family, case.tokenizer)
    assert shown == golden_path(case.family).read_text(encoding="utf-8"), (
        "read the difference; if it is right, python -m kit.families.labels writes the files anew"
    )


def test_every_answer_is_learned_with_one_stop_token_and_nothing_else(case: Case) -> None:
    wrong = {}
    for shape, examples in case.encoded:
        spans = [span for example in examples for span in spans_of(example)]
        found = [_read(case.tokenizer, case.family, span) for span in spans]
        expected = [answer.strip() for answer in answers_of(shape)]
        if "text" in shape.row and expected[0].endswith(found[0][0]):
            continue  # without a begin token, nothing predicts the first token
        if len(found) != len(expected) or not all(map(_is_answer, found, expected)):
            wrong[shape.title] = (found, expected)
    assert not wrong


def test_the_evaluation_asks_with_the_tokens_that_training_saw(case: Case) -> None:
    wrong = {}
    for shape, examples in case.encoded:
        if "text" in shape.row:
            continue
        prompt = encode_prompt(case.tokenizer, case.family, shape)
        seen = examples[-1].input_ids[: examples[-1].spans[-1][0]]
        if seen != prompt:
            wrong[shape.title] = (case.tokenizer.decode(prompt), case.tokenizer.decode(seen))
    assert not wrong


def test_validation_lets_the_template_pass(case: Case) -> None:
    assert find_chat_template_error(case.tokenizer.chat_template or "") is None


def test_only_what_a_template_cannot_write_is_refused(case: Case) -> None:
    taken = [shape.title for shape, _ in case.encoded]
    refused = [shape.title for shape in shapes_of(case.tokenizer) if shape.title not in taken]
    assert refused == list(case.family.refuses)


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
