"""What counts as the answer in what a model has said, where it reasons before it."""

from __future__ import annotations

import pytest

from finetune_trainer.model.chat_format import ChatFormat, decide_format
from finetune_trainer.model.encoding import ChatTokenizer
from kit.models import awkward_templates as templates
from kit.models.tiny_tokenizer import CHATML, make_tokenizer

R1, QWEN3 = templates.OPENS_REASONING, templates.DROPS_REASONING
HI = {"role": "user", "content": "hi"}
END = "<|im_end|>"


def make_encoder(
    template: str | None, *, has_reasoning: bool = False, **arguments: bool
) -> ChatTokenizer:
    tokenizer = make_tokenizer(chat_template=template)
    chat_format = decide_format(tokenizer, arguments=arguments, has_reasoning=has_reasoning)
    return ChatTokenizer(tokenizer, chat_format, max_tokens=1000)


def thinking(template: str | None) -> ChatTokenizer:
    return make_encoder(template, **({"enable_thinking": True} if template == QWEN3 else {}))


def tokens(text: str) -> list[int]:
    return list(make_tokenizer()(text)["input_ids"])


@pytest.mark.parametrize(
    ("template", "said", "answer"),
    [
        (R1, f"why</think>\n\nno{END}", "no"),
        (R1, f"why</think>{END}", ""),
        (R1, "why, they ask for a label: positive or", None),
        (R1, f"positive{END}", None),  # a server that reads reasoning gives nothing
        (R1, "", None),
        (QWEN3, f"<think>\nwhy\n</think>\n\nno{END}", "no"),
        (QWEN3, "<think>\nwhy, positive or", None),
        (QWEN3, f"positive{END}", "positive"),  # it answers at once
        (CHATML, "<think>\nas it is", "<think>\nas it is"),
        (None, "<think> as it is", "<think> as it is"),
    ],
)
def test_reasoning_without_an_end_is_no_answer(
    template: str | None, said: str, answer: str | None
) -> None:
    encoder = thinking(template)
    prompt = encoder.encode_prompt([HI] if template else "hi")
    assert encoder.reader.read_generated(prompt, tokens(said)) == answer


@pytest.mark.parametrize("said", ["positive", f"positive{END}"])
def test_a_prompt_that_has_ended_reasoning_is_answered_at_once(said: str) -> None:
    encoder = make_encoder(QWEN3, has_reasoning=True, enable_thinking=False)
    assert encoder.chat_format.answer_after
    prompt = encoder.encode_prompt([HI])
    assert encoder.reader.read_generated(prompt, tokens(said)) == "positive"
    assert not encoder.reader.may_reason(prompt)


@pytest.mark.parametrize(
    ("template", "question", "may_reason", "answer"),
    [
        (QWEN3, "What does <think> do?", True, "no"),
        (QWEN3, "And </think>?", True, "no"),
        (R1, "And </think>?", True, None),
        (CHATML, "What does <think> do?", False, "no"),
    ],
)
def test_what_people_write_of_reasoning_is_none(
    template: str, question: str, may_reason: bool, answer: str | None
) -> None:
    encoder = thinking(template)
    prompt = encoder.encode_prompt([{"role": "user", "content": question}])
    assert encoder.reader.may_reason(prompt) is may_reason
    assert encoder.reader.read_generated(prompt, tokens("no")) == answer


@pytest.mark.parametrize(
    ("template", "knows_reasoning"),
    [
        (templates.HEADER_NEVER, False),
        (templates.NAMES_SPEAKERS, False),
        (CHATML, False),
        (templates.CHANNELS, True),
        (templates.CHANNELS_ALWAYS, True),
        (templates.FORGETS_REASONING_OF_CALLS, True),
        (R1, True),
        (QWEN3, True),
    ],
)
def test_nobody_reasons_before_a_header_that_the_template_leaves_to_the_model(
    template: str, knows_reasoning: bool
) -> None:
    encoder = thinking(template)
    chat_format = encoder.chat_format
    assert chat_format.knows_reasoning is knows_reasoning
    assert encoder.reader.may_reason(encoder.encode_prompt([HI])) is knows_reasoning
    assert ChatFormat.from_json(chat_format.to_json()) == chat_format


def test_an_answer_behind_its_own_header_is_read_without_it() -> None:
    encoder = make_encoder(templates.HEADER_NEVER)
    prompt = encoder.encode_prompt([HI])
    for said, answer in ((f"<|im_start|>assistant\nno{END}", "no"), ("no", "no")):
        assert encoder.reader.read_generated(prompt, tokens(said)) == answer


def test_a_format_without_a_left_header_is_written_as_older_releases_read_it() -> None:
    wire = make_encoder(templates.CHANNELS).chat_format.to_json()
    assert "leaves_header" not in wire
    older = {**make_encoder(templates.HEADER_NEVER).chat_format.to_json()}
    del older["leaves_header"]
    assert ChatFormat.from_json(older).knows_reasoning  # nobody can tell: room is left for it


@pytest.mark.parametrize(
    ("template", "said", "before"),
    [
        (R1, "why</think>\n\nno", "why</think>"),
        (R1, "a</think>b</think>no", "a</think>b</think>"),
        (R1, "no", ""),
        (templates.CHANNELS, "Hm.final<|im_start|>no", "Hm.final<|im_start|>"),
        (CHATML, "why</think>\n\nno", ""),
    ],
)
def test_what_stands_before_an_answer_is_counted_in_tokens(
    template: str, said: str, before: str
) -> None:
    assert thinking(template).reader.count_before(tokens(said)) == len(tokens(before))
