"""Reasoning that rows bring is learned, under whatever name rows and template know it."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_trainer.model.chat_format import decide_format
from finetune_trainer.model.encoding import ChatTokenizer
from kit.families.family import Family
from kit.families.labels import encode_prompt, encode_row, spans_of, stop_ids_of
from kit.families.rows import ASKS_FRANCE, PARIS, TOOL_TURNS, WEATHER_TOOL, Shape
from kit.families.table import FAMILIES
from kit.models.real_tokenizers import TokenizerUnavailableError

WHY = "France, so Paris."
LOOKS, READS = "I need the weather.", "It said sunny."
CALL = '<|channel|>commentary to=functions.get_weather json<|message|>{"city": "Rome"}'
THINKS = "<|channel|>analysis<|message|>I need the weather."
THEN = "<|end|><|start|>assistant"


# gpt-oss reads `thinking`, Qwen3 `reasoning_content`.
@pytest.fixture(scope="module", params=["gpt-oss", "qwen-3"])
def family(request: pytest.FixtureRequest) -> tuple[Family, Any]:
    found = next(each for each in FAMILIES if each.name == request.param)
    try:
        return found, found.tokenizer()
    except TokenizerUnavailableError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize(
    ("name", "arguments", "said", "answer"),
    [
        ("qwen-3", {"enable_thinking": True}, "<think>\nSo Paris.\n</think>\n\nParis.", "Paris."),
        ("qwen-3", {"enable_thinking": True}, "<think>\nSo Paris.", None),
        ("qwen-3", {"enable_thinking": True}, "Paris.", "Paris."),
        ("qwen-3", {}, "<think>\nSo Paris.", "<think>\nSo Paris."),
        ("gpt-oss", {}, f"{THINKS}{THEN}<|channel|>final<|message|>It is sunny.", "It is sunny."),
        ("gpt-oss", {}, THINKS, None),
        ("gpt-oss", {}, f"{THINKS}{THEN}<|channel|>final", None),
        ("gpt-oss", {}, f"{THINKS}<|return|>", None),
        ("gpt-oss", {}, "It is sunny.", "It is sunny."),
        ("gpt-oss", {}, f"{CALL}<|call|>", "as it is"),
        ("gpt-oss", {}, f"{THINKS}{THEN}{CALL}<|call|>", "as it is"),
        ("gpt-oss", {}, f"{THINKS}{THEN}{CALL}", None),
    ],
)
def test_an_answer_that_reasoning_leaves_no_room_for_is_none(
    name: str, arguments: dict[str, bool], said: str, answer: str | None
) -> None:
    found = next(each for each in FAMILIES if each.name == name)
    try:
        tokenizer = found.tokenizer()
    except TokenizerUnavailableError as error:
        pytest.skip(str(error))
    stops = {"eos_token_id": stop_ids_of(tokenizer, found)}
    encoder = ChatTokenizer(
        tokenizer, decide_format(tokenizer, stops, arguments=arguments), max_tokens=512
    )
    prompt = encoder.encode_prompt([ASKS_FRANCE])
    assert encoder.reader.may_reason(prompt) is bool(arguments or name == "gpt-oss")
    ids = tokenizer(said, add_special_tokens=False)["input_ids"]
    read = encoder.reader.read_generated(prompt, ids)
    assert read == (encoder.decode_answer(ids) if answer == "as it is" else answer)


def test_calls_in_a_prompt_begin_no_reasoning_of_the_answer_to_them(
    family: tuple[Family, Any],
) -> None:
    found, tokenizer = family
    chat_format = decide_format(tokenizer, {"eos_token_id": stop_ids_of(tokenizer, found)})
    encoder = ChatTokenizer(tokenizer, chat_format, max_tokens=512)
    row = {"tools": [WEATHER_TOOL], "messages": list(TOOL_TURNS)}
    prompt = encode_prompt(tokenizer, found, Shape(title="a call", row=row))
    ids = tokenizer("It is sunny.", add_special_tokens=False)["input_ids"]
    assert encoder.reader.read_generated(prompt, ids) == "It is sunny."


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
