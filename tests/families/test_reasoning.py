"""Reasoning that rows bring is learned, under whatever name rows and template know it."""

from __future__ import annotations

from typing import Any

import pytest

from families.family import Family
from families.labels import encode_row, spans_of
from families.rows import ASKS_FRANCE, PARIS, TOOL_TURNS, WEATHER_TOOL, Shape
from families.table import FAMILIES
from support.real_tokenizers import TokenizerUnavailableError

WHY = "France, so Paris."
LOOKS, READS = "I need the weather.", "It said sunny."


# gpt-oss reads `thinking`, Qwen3 `reasoning_content`.
@pytest.fixture(scope="module", params=["gpt-oss", "qwen-3"])
def family(request: pytest.FixtureRequest) -> tuple[Family, Any]:
    found = next(each for each in FAMILIES if each.name == request.param)
    try:
        return found, found.tokenizer()
    except TokenizerUnavailableError as error:
        pytest.skip(str(error))


def learn(family: tuple[Family, Any], row: dict[str, Any]) -> tuple[list[str], int]:
    """Return what is learned of a row, and how many thoughts of it are not."""
    found, tokenizer = family
    examples = encode_row(tokenizer, found, Shape(title="reasoning", row=row))
    texts = [tokenizer.decode(span) for each in examples for span in spans_of(each)]
    return texts, sum(each.num_thoughts_lost for each in examples)


@pytest.mark.parametrize("key", ["reasoning_content", "reasoning", "thinking"])
def test_reasoning_is_learned_before_its_answer(family: tuple[Family, Any], key: str) -> None:
    (text,), num_lost = learn(family, {"messages": [ASKS_FRANCE, {**PARIS, key: WHY}]})
    assert num_lost == 0
    assert 0 < text.index(WHY) < text.rindex("Paris.")


def test_reasoning_before_a_call_and_before_the_answer_is_learned(
    family: tuple[Family, Any],
) -> None:
    asks, call, sunny, answer = TOOL_TURNS
    messages = [asks, {**call, "thinking": LOOKS}, sunny, {**answer, "thinking": READS}]
    (called, answered), num_lost = learn(family, {"tools": [WEATHER_TOOL], "messages": messages})
    assert num_lost == 0
    assert called.index(LOOKS) < called.index("get_weather")
    assert answered.index(READS) < answered.index("It is sunny in Rome.")
    assert LOOKS not in answered
