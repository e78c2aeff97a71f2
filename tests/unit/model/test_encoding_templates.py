"""For every shape of chat template: what is learned follows the prompt of generation, and ends."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from jinja2 import TemplateSyntaxError

from finetune_trainer.errors import DataError
from finetune_trainer.model.chat_format import ChatFormat, decide_format
from finetune_trainer.model.encoding import ChatTokenizer, TokenizedExample
from kit.models import awkward_templates as templates
from kit.models.tiny_tokenizer import CHATML, make_tokenizer

SYSTEM = {"role": "system", "content": "Be brief."}
HI = {"role": "user", "content": "hi"}
HELLO = {"role": "assistant", "content": "hello"}
BYE = {"role": "user", "content": "bye"}
SO_LONG = {"role": "assistant", "content": "so long"}
TURNS = [HI, HELLO, BYE, SO_LONG]


def make_encoder(
    own: str | None, *, eos: str = "<|im_end|>", loss: str = "Auto", **settings: Any
) -> tuple[Any, ChatTokenizer]:
    tokenizer = make_tokenizer(chat_template=own)
    tokenizer.eos_token = eos
    chat_format = decide_format(tokenizer, settings.pop("generation_config", None), **settings)
    return tokenizer, ChatTokenizer(tokenizer, chat_format, loss=loss, max_tokens=10_000)


def learned(tokenizer: Any, examples: tuple[TokenizedExample, ...]) -> list[str]:
    return [
        tokenizer.decode(example.input_ids[start:end])
        for example in examples
        for start, end in example.spans
    ]


@pytest.mark.parametrize(
    ("template", "messages", "num_examples", "expected"),
    [
        (CHATML, TURNS, 1, ["hello<|im_end|>", "so long<|im_end|>"]),
        (templates.HEADER_ALWAYS, TURNS, 1, ["hello<|im_end|>", "so long<|im_end|>"]),
        (templates.DROPS_REASONING, TURNS, 2, ["hello<|im_end|>", "so long<|im_end|>"]),
        (
            templates.OPENS_REASONING,
            TURNS,
            2,
            ["\n</think>\n\nhello<|im_end|>", "\n</think>\n\nso long<|im_end|>"],
        ),
        (templates.NO_END, TURNS, 2, ["hello<|im_end|>", "so long<|im_end|>"]),
        (templates.TWO_ENDS, TURNS, 1, ["hello<|im_end|>", "so long<|im_end|>"]),
        (templates.ENDS_OTHERWISE, TURNS, 2, ["hello<|endoftext|>", "so long<|endoftext|>"]),
        (
            templates.SYSTEM_INTO_LAST_USER,
            [SYSTEM, *TURNS],
            2,
            ["hello<|im_end|>", "so long<|im_end|>"],
        ),
        (templates.DATED, TURNS, 1, ["hello<|im_end|>", "so long<|im_end|>"]),
        (templates.PARTS_ONLY, TURNS, 1, ["hello<|im_end|>", "so long<|im_end|>"]),
        (
            templates.CHANNELS,
            TURNS,
            1,
            ["final<|im_start|>hello<|im_end|>", "final<|im_start|>so long<|im_end|>"],
        ),
    ],
)
def test_each_answer_is_learned_after_the_prompt_of_generation_and_ends_once(
    template: str, messages: list[dict[str, str]], num_examples: int, expected: list[str]
) -> None:
    tokenizer, encoder = make_encoder(template)
    if template == templates.ENDS_OTHERWISE:
        # Past answers end in the other token, which generation does not stop at.
        tokenizer, encoder = make_encoder(template, eos="<|endoftext|>")
    examples = encoder.encode_row({"messages": messages})
    assert len(examples) == num_examples
    assert learned(tokenizer, examples) == expected
    answers = [m["content"] for m in messages if m["role"] == "assistant"]
    spans = [(example, span) for example in examples for span in example.spans]
    positions = [i for i, m in enumerate(messages) if m["role"] == "assistant"]
    for (example, (start, end)), position, answer in zip(spans, positions, answers, strict=True):
        assert example.input_ids[:start] == encoder.encode_prompt(messages[:position])
        assert encoder.decode_answer(example.input_ids[start:end]) == answer
        stops = [i in encoder.chat_format.stop_ids for i in example.input_ids[start:end]]
        assert stops == [False] * (end - start - 1) + [True]


def test_an_end_that_generation_does_not_stop_at_becomes_a_stop_and_is_told() -> None:
    tokenizer, encoder = make_encoder(CHATML, eos="<|endoftext|>")
    assert learned(tokenizer, encoder.encode_row({"messages": TURNS}))[0] == "hello<|im_end|>"
    stops = tokenizer.convert_ids_to_tokens(list(encoder.chat_format.stop_ids))
    assert set(stops) == {"<|endoftext|>", "<|im_end|>"}
    (note,) = encoder.chat_format.notes
    assert "'<|im_end|>'" in note
    assert "it stops at '<|endoftext|>'" in note


def test_an_answer_without_end_ends_in_the_next_header_where_generation_stops_there() -> None:
    tokenizer, encoder = make_encoder(
        templates.NO_END, eos="<|endoftext|>", generation_config={"eos_token_id": [0, 2]}
    )
    examples = encoder.encode_row({"messages": TURNS})
    assert len(examples) == 1  # the header of the next turn is the end of this one
    assert learned(tokenizer, examples) == ["hello<|im_start|>", "so long<|im_start|>"]


@pytest.mark.parametrize(
    ("template", "answer", "text"),
    [
        (CHATML, "  hello \n", "  hello \n<|im_end|>"),
        (templates.TRIMS, "  hello \n", "hello<|im_end|>"),
        (CHATML, "caf\u00e9 \U0001f600", "caf\u00e9 \U0001f600<|im_end|>"),
    ],
)
def test_white_space_around_an_answer_does_not_count(template: str, answer: str, text: str) -> None:
    tokenizer, encoder = make_encoder(template)
    row = {"messages": [HI, {"role": "assistant", "content": answer}]}
    examples = encoder.encode_row(row)
    assert learned(tokenizer, examples) == [text]
    start, end = examples[0].spans[0]
    assert encoder.decode_answer(examples[0].input_ids[start:end]) == answer.strip()


def test_thinking_is_off_and_stays_off_for_who_renders_the_template_without_arguments() -> None:
    tokenizer, encoder = make_encoder(templates.DROPS_REASONING)
    chat_format = encoder.chat_format
    assert "enable_thinking: false" in chat_format.notes[0]
    served = tokenizer.apply_chat_template(
        [HI], chat_template=chat_format.template, add_generation_prompt=True, tokenize=False
    )
    assert served.endswith("assistant\n<think>\n\n</think>\n\n")
    thinking = tokenizer.apply_chat_template(
        [HI],
        chat_template=chat_format.template,
        add_generation_prompt=True,
        tokenize=False,
        enable_thinking=True,
    )
    assert thinking.endswith("assistant\n")


@pytest.mark.parametrize(
    ("template", "answer"),
    [
        (CHATML, {**HELLO, "content": "<think>\nWhy\n</think>\n\nhello"}),
        (templates.OPENS_REASONING, {**HELLO, "content": "<think>\nWhy\n</think>\n\nhello"}),
        (templates.OPENS_REASONING, {**HELLO, "reasoning_content": "Why"}),
        (templates.KEEPS_REASONING, {**HELLO, "reasoning_content": "Why"}),
    ],
)
def test_reasoning_that_answers_bring_is_learned(template: str, answer: dict[str, str]) -> None:
    tokenizer, encoder = make_encoder(template, has_reasoning=True)
    examples = encoder.encode_row({"messages": [HI, answer]})
    (text,) = learned(tokenizer, examples)
    assert "Why\n</think>\n\nhello<|im_end|>" in text
    assert encoder.read_answer({"messages": [HI, answer]}) == "hello"
    assert encoder.decode_answer(examples[0].input_ids[examples[0].spans[0][0] :]) == "hello"


@pytest.mark.parametrize(
    ("template", "messages", "num_lost"),
    [
        (CHATML, [HI, {**HELLO, "reasoning_content": "Why"}], 1),
        (CHATML, [HI, {**HELLO, "reasoning_content": "Why"}, HI, {**HELLO}], 1),
        (templates.DROPS_REASONING, [HI, {**HELLO, "content": "<think>Why</think>hello"}], 1),
        (templates.KEEPS_REASONING, [HI, {**HELLO, "reasoning_content": "\n Why "}], 0),
        (templates.OPENS_REASONING, [HI, HELLO], 0),
    ],
)
def test_reasoning_that_the_template_does_not_write_is_counted(
    template: str, messages: list[dict[str, str]], num_lost: int
) -> None:
    _, encoder = make_encoder(template, has_reasoning=True)
    examples = encoder.encode_row({"messages": messages})
    assert sum(example.num_thoughts_lost for example in examples) == num_lost


def test_what_a_model_says_before_its_answer_is_no_part_of_the_answer() -> None:
    tokenizer, encoder = make_encoder(templates.CHANNELS)
    said = "analysis<|im_start|>Hm.final<|im_start|>hello<|im_end|>"
    assert encoder.decode_answer(tokenizer(said)["input_ids"]) == "hello"


def test_the_date_of_a_template_is_the_same_on_every_day() -> None:
    tokenizer, encoder = make_encoder(templates.DATED)
    assert tokenizer.decode(encoder.encode_prompt([HI])).startswith("Today is 01 Jan 2025.")
    assert "2025-01-01" in encoder.chat_format.notes[0]


@pytest.mark.parametrize(
    ("template", "row", "reason", "words"),
    [
        (
            templates.DROPS_SYSTEM,
            {"messages": [SYSTEM, HI, HELLO]},
            "TemplateDropsTurn",
            "messages[0] (role system)",
        ),
        (
            CHATML,
            {"messages": [HI, HELLO], "tools": [{"function": {"name": "f"}}]},
            "TemplateDropsTools",
            "`tools`",
        ),
        (
            templates.ANSWERS_ELSEWHERE,
            {"messages": [HI, HELLO]},
            "PromptNotPrefix",
            "messages[1]",
        ),
        (templates.CHANGES_ANSWER, {"messages": [HI, HELLO]}, "AnswerNotReproduced", "5"),
        (None, {"messages": [HI, HELLO]}, "NoChatTemplate", "model.chatTemplate"),
    ],
)
def test_a_row_that_cannot_be_written_is_refused_without_its_text(
    template: str | None, row: dict[str, Any], reason: str, words: str
) -> None:
    _, encoder = make_encoder(template)
    with pytest.raises(DataError) as caught:
        encoder.encode_row(row)
    assert caught.value.reason == reason
    assert words in caught.value.message
    assert not {"hello", "HELLO", "Be brief."} & set(caught.value.message.split())


def test_a_template_that_renders_only_with_tools_writes_them() -> None:
    template = "{% if not tools %}{{ raise_exception('no tools') }}{% endif %}{{ tools }}" + CHATML
    tokenizer = make_tokenizer(chat_template=CHATML)
    chat_format = replace(decide_format(tokenizer, None), template=template)
    encoder = ChatTokenizer(tokenizer, chat_format, loss="Auto", max_tokens=10_000)
    row = {"messages": [HI, HELLO], "tools": [{"function": {"name": "weather"}}]}
    assert learned(tokenizer, encoder.encode_row(row)) == ["hello<|im_end|>"]


def test_calls_of_tools_are_learned_and_asked_for_with_the_tools() -> None:
    tokenizer, encoder = make_encoder(templates.WITH_TOOLS)
    tools = [{"type": "function", "function": {"name": "weather", "parameters": {}}}]
    function = {"name": "weather", "arguments": {"city": "Rome"}}
    call = {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"type": "function", "function": function}],
    }
    messages = [HI, call, {"role": "tool", "content": "sunny"}, HELLO]
    examples = encoder.encode_row({"messages": messages, "tools": tools})
    expected = 'weather({"city": "Rome"})'
    assert learned(tokenizer, examples) == [f"{expected}<|im_end|>", "hello<|im_end|>"]
    start = examples[0].spans[0][0]
    assert examples[0].input_ids[:start] == encoder.encode_prompt([HI], tools)
    assert encoder.read_answer({"messages": messages[:2], "tools": tools}) == expected


def test_an_answer_follows_what_generation_saw_though_the_template_forgets_it_later() -> None:
    tokenizer, encoder = make_encoder(templates.FORGETS_REASONING_OF_CALLS, has_reasoning=True)
    call = {
        "role": "assistant",
        "content": "",
        "reasoning_content": "look",
        "tool_calls": [{"type": "function", "function": {"name": "weather", "arguments": {}}}],
    }
    messages = [HI, call, {"role": "tool", "content": 'a "sunny" day'}, HELLO]
    (example,) = encoder.encode_row({"messages": messages})
    assert learned(tokenizer, (example,)) == [
        "think look<|im_start|>assistant\nweather()<|im_end|>",
        "final hello<|im_end|>",
    ]
    seen = example.input_ids[: example.spans[-1][0]]
    assert seen == encoder.encode_prompt(messages[:-1])
    assert "think look" in tokenizer.decode(seen)


def test_a_developer_is_the_system_where_the_template_knows_none() -> None:
    tokenizer, encoder = make_encoder(CHATML)
    prompt = encoder.encode_prompt([{**SYSTEM, "role": "developer"}, HI])
    assert prompt == encoder.encode_prompt([SYSTEM, HI])


def test_arguments_and_template_of_the_job_come_first() -> None:
    _, encoder = make_encoder(
        "unused", template=templates.DROPS_REASONING, arguments={"enable_thinking": True}
    )
    assert encoder.chat_format.notes == ()
    tokenizer = make_tokenizer()
    assert tokenizer.decode(encoder.encode_prompt([HI])).endswith("assistant\n")


def test_a_format_is_read_as_it_was_written() -> None:
    _, encoder = make_encoder(templates.DROPS_REASONING, eos="<|endoftext|>")
    assert ChatFormat.from_json(encoder.chat_format.to_json()) == encoder.chat_format


def test_a_template_that_is_no_jinja_is_told() -> None:
    with pytest.raises(TemplateSyntaxError):
        make_encoder("{% for %}")


class TestBaseModels:
    """Text without a chat template."""

    @pytest.mark.parametrize(
        ("prompt", "completion"), [("q: ", "a"), ("q:", " a"), ("un", "happy"), ("q\n", "\na")]
    )
    def test_the_prompt_keeps_its_tokens_and_the_answer_ends(
        self, prompt: str, completion: str
    ) -> None:
        tokenizer, encoder = make_encoder(None, eos="<|endoftext|>")
        (example,) = encoder.encode_row({"prompt": prompt, "completion": completion})
        ((start, end),) = example.spans
        assert example.input_ids[:start] == encoder.encode_prompt(prompt)
        assert tokenizer.decode(example.input_ids[start:end]) == completion + "<|endoftext|>"

    def test_an_end_that_the_row_brings_is_not_doubled(self) -> None:
        tokenizer, encoder = make_encoder(None, eos="<|endoftext|>")
        examples = encoder.encode_row({"prompt": "q", "completion": "a<|endoftext|>"})
        assert learned(tokenizer, examples) == ["a<|endoftext|>"]


def test_a_row_that_is_cut_learns_no_end_that_it_does_not_have() -> None:
    tokenizer = make_tokenizer()
    whole = ChatTokenizer(tokenizer, max_tokens=10_000).encode_row({"messages": [HI, HELLO]})[0]
    start, end = whole.spans[0]
    cut = ChatTokenizer(tokenizer, max_tokens=end - 2).encode_row({"messages": [HI, HELLO]})[0]
    assert (cut.input_ids, cut.num_cut) == (whole.input_ids[: end - 2], 2)
    assert cut.spans == ((start, end - 2),)
    assert cut.input_ids[-1] not in whole.input_ids[end - 1 :]


@pytest.mark.parametrize(
    "template", [CHATML, templates.TRIMS, templates.HEADER_ALWAYS, templates.CHANNELS]
)
def test_a_long_chat_is_rendered_a_few_times_and_reads_as_answer_by_answer(
    template: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer, encoder = make_encoder(template)
    answers = [{**HELLO, "content": f" answer {n}\n" if n % 3 else "a"} for n in range(20)]
    row = {"messages": [SYSTEM, *(message for answer in answers for message in (HI, answer))]}
    num_renderings = 0
    render = tokenizer.apply_chat_template

    def count(*arguments: Any, **settings: Any) -> Any:
        nonlocal num_renderings
        num_renderings += 1
        return render(*arguments, **settings)

    monkeypatch.setattr(tokenizer, "apply_chat_template", count)
    fast = encoder.encode_row(row)
    assert num_renderings < 10
    monkeypatch.setattr("finetune_trainer.model.turns.MIN_TURNS_READ_OFF", 1000)
    assert encoder.encode_row(row) == fast
    assert len(fast) == 1
    assert len(fast[0].spans) == 20


def test_the_template_of_the_guide_writes_tools_and_calls() -> None:
    guide = Path(__file__).parents[3] / "docs/how-to/chat-templates.md"
    _, _, rest = guide.read_text().partition("(`TemplateDropsTools`). It suits")
    block = rest.partition("```yaml\n")[2].partition("```")[0]
    template = yaml.safe_load(block)["chatTemplate"]["text"]
    tokenizer, encoder = make_encoder(template)
    tool = {"type": "function", "function": {"name": "find", "parameters": {"type": "object"}}}
    function = {"name": "find", "arguments": {"number": 7}}
    call = {"role": "assistant", "content": "", "tool_calls": [{"id": "a", "function": function}]}
    row = {"messages": [SYSTEM, HI, call, {"role": "tool", "content": "42"}, HELLO]}
    examples = encoder.encode_row({**row, "tools": [tool]})
    said = learned(tokenizer, examples)
    assert said[-1] == "hello<|im_end|>"
    assert '"find"' in said[0]
    without = encoder.encode_prompt([HI])
    assert encoder.encode_prompt([HI], [tool]) != without
